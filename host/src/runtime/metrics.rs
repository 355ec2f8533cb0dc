//! What the host counts about itself, for `/metrics`.

use std::sync::{Arc, atomic::Ordering};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{Runtime, operator::Operator, patrol::Found};
use crate::exec::Engine;

impl Runtime {
    /// Registers the host's metrics. Once per registry.
    pub fn metrics(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(HostMetrics {
            engine: self.engine().clone(),
            operator: self.operator().clone(),
            found: self.patrol.found.clone(),
        }));
    }
}

/// Reads the figures when they are asked for, so that counting costs nothing in between.
struct HostMetrics {
    engine: Arc<Engine>,
    operator: Arc<Operator>,
    found: Arc<Found>,
}

impl std::fmt::Debug for HostMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostMetrics").finish_non_exhaustive()
    }
}

impl Collector for HostMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let vitals = self.engine.vitals();
        let report = self.operator.swapper.retirement.report();
        counter("theseus_transactions", "Transactions made durable", vitals.transactions.load(Ordering::Relaxed))?;
        counter("theseus_batches", "Batches committed", vitals.batches.load(Ordering::Relaxed))?;
        counter("theseus_queries", "Queries executed", vitals.queries())?;
        counter("theseus_plugins_unloaded", "Replaced plugins that were unloaded", report.unloaded())?;
        counter("theseus_rollbacks", "Swaps that were taken back", self.operator.swapper.rollbacks())?;
        let found = &self.found;
        counter(
            "theseus_verified_rounds",
            "Rounds of verifying in the background",
            found.rounds.load(Ordering::Relaxed),
        )?;
        counter(
            "theseus_damage",
            "Damaged places met by verifying in the background",
            found.damage.load(Ordering::Relaxed),
        )?;
        let misses = self.engine.plugins().misses().total();
        counter("theseus_not_understood", "Messages that nobody understood", misses)?;
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = ConstGauge::new(value as i64);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge(
            "theseus_verified_tid",
            "The last transaction verified in this round in the background",
            self.found.tid.load(Ordering::Relaxed),
        )?;
        let identity = self.engine.identity();
        let (head, reached) = (identity.head().tid.0, identity.reached().0);
        let (commands, queries) = self.engine.waiting();
        gauge("theseus_tid", "The last durable transaction", head)?;
        gauge(
            "theseus_table_lag",
            "Durable transactions that the object table has not seen",
            head - reached.min(head),
        )?;
        gauge("theseus_objects", "Objects", vitals.objects.load(Ordering::Relaxed))?;
        gauge(
            "theseus_messages_waiting",
            "Posted messages that wait",
            vitals.messages_waiting.load(Ordering::Relaxed),
        )?;
        gauge(
            "theseus_messages_set_aside",
            "Posted messages that were set aside",
            vitals.messages_set_aside.load(Ordering::Relaxed),
        )?;
        gauge("theseus_overlay_objects", "Objects kept in memory", identity.overlay_objects() as u64)?;
        gauge("theseus_commands_waiting", "Commands in the queue", commands as u64)?;
        gauge("theseus_queries_waiting", "Queries in the queue", queries as u64)?;
        if let Some(room) = self.engine.room().room() {
            gauge("theseus_history_bytes", "Bytes that the history takes", room.history_bytes)?;
            gauge("theseus_objects_bytes", "Bytes that the object table takes", room.objects_bytes)?;
            gauge("theseus_disk_free_bytes", "Bytes free on the identity's disk", room.disk_free_bytes)?;
        }
        let short = u64::from(self.engine.room().shortage().is_some());
        gauge("theseus_storage_short", "1 while commands are refused for want of room", short)?;
        gauge("theseus_plugins_retired", "Replaced plugins still in memory", report.retired.len() as u64)?;
        gauge("theseus_plugins_pinned", "Plugins that cannot be unloaded", report.pinned() as u64)?;
        let trials = self.operator.trials();
        gauge("theseus_plugins_on_probation", "Plugins on probation", trials.probation.len() as u64)?;
        gauge(
            "theseus_plugins_failed",
            "Plugins that failed their probation and are in force",
            trials.failed.len() as u64,
        )?;
        gauge("theseus_plugins_quarantined", "Plugin files in quarantine", trials.quarantine.len() as u64)?;
        gauge("theseus_longest_call_ms", "How long the longest message under way has taken", vitals.longest_call_ms())
    }
}
