//! What the host itself remembers: the typed view of its own object's slots.
//!
//! A host keeps what it does not know, at each level, so that an older and a newer one can take turns on one identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use theseus_value::{DecodeError, Value};

use crate::{
    exec::{Moment, Remember},
    identity::{HOST_OBJECT, Identity, Reader, StorageError, Tid},
    plugin::Digest,
};

/// How many digests are kept in quarantine; the oldest go first.
const QUARANTINE_MAX: usize = 256;

/// What the host remembers.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(default)]
pub struct Memory {
    /// The plugins on probation, by name.
    pub probation: BTreeMap<String, OnProbation>,
    /// The plugins in force that failed their probation and could not be taken back, by name.
    pub failed: BTreeMap<String, Failed>,
    /// The files that are not taken again unless somebody insists, by digest.
    pub quarantine: BTreeMap<String, Quarantined>,
    /// What a rollback of a plugin goes back to, by the plugin's name.
    pub previous: BTreeMap<String, Previous>,
    /// The transaction of the last rollback; none if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<Tid>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// A plugin on probation.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct OnProbation {
    /// The file that was replaced; none if the plugin is new.
    pub from: Option<Digest>,
    /// The file on probation.
    pub to: Digest,
    /// When it came into force, in microseconds since the Unix epoch.
    pub since_us: u64,
    /// When the probation ends well.
    pub until_us: u64,
    /// The transaction that put it in force. Plugins of one swap have the same.
    pub tid: Tid,
    /// How often the host has died since.
    pub crashes: u64,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// A plugin that failed its probation and is in force nevertheless.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Failed {
    /// Its file.
    pub to: Digest,
    /// The transaction that put it in force.
    pub tid: Tid,
    /// How it failed, and why it could not be taken back.
    pub reason: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// Why a file is in quarantine.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Quarantined {
    /// The plugin.
    pub plugin: String,
    /// The transaction that took it back.
    pub tid: Tid,
    /// When that was, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// Why.
    pub reason: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// The last swap of a plugin.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Previous {
    /// The file that was replaced; none if the plugin was new.
    pub from: Option<Digest>,
    /// The file that replaced it.
    pub to: Digest,
    /// The transaction of the swap. Plugins of one swap have the same.
    pub tid: Tid,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

impl Memory {
    /// What the host remembers as of the last durable transaction.
    ///
    /// # Errors
    ///
    /// If the storage fails, or if it is not understood.
    pub fn read(identity: &std::sync::Arc<Identity>) -> Result<Memory, StorageError> {
        let head = identity.head().tid;
        let version = Reader::new(identity.clone()).as_of(HOST_OBJECT, head)?;
        let Some(record) = version.and_then(|version| version.record.clone()) else { return Ok(Memory::default()) };
        Memory::decode(&record.slots)
            .map_err(|error| identity.damaged(head, format!("the host's own object is not understood: {error}")))
    }

    /// Reads it from the object's slots.
    fn decode(slots: &[u8]) -> Result<Memory, DecodeError> {
        theseus_value::from_slice(slots)
    }

    /// Takes down a swap: what was replaced by what. With a window the plugins are on probation for that long.
    pub fn swapped(
        &mut self,
        moment: &Moment<'_>,
        swapped: &[(String, Option<Digest>, Digest)],
        window_us: Option<u64>,
    ) {
        let (tid, since_us) = (moment.tid, moment.time_us);
        for (plugin, from, to) in swapped {
            let (from, to) = (*from, *to);
            self.previous.insert(plugin.clone(), Previous { from, to, tid, unknown: BTreeMap::new() });
            // Whoever forced it in has overruled the quarantine.
            self.quarantine.remove(&to.to_string());
            self.probation.remove(plugin);
            self.failed.remove(plugin);
            if let Some(window_us) = window_us {
                let until_us = since_us + window_us;
                let unknown = BTreeMap::new();
                let probation = OnProbation { from, to, since_us, until_us, tid, crashes: 0, unknown };
                self.probation.insert(plugin.clone(), probation);
            }
        }
    }

    /// Takes down a rollback. There is nothing to go back to after it: going back twice would put in force again what was
    /// taken back, or take back an older swap, which nobody meant.
    pub fn rolled_back(&mut self, moment: &Moment<'_>, plugins: &[String], quarantined: &[(String, Digest, String)]) {
        for plugin in plugins {
            self.probation.remove(plugin);
            self.failed.remove(plugin);
            self.previous.remove(plugin);
        }
        self.rolled_back = Some(moment.tid);
        for (plugin, digest, reason) in quarantined {
            let (plugin, reason) = (plugin.clone(), reason.clone());
            let entry =
                Quarantined { plugin, tid: moment.tid, time_us: moment.time_us, reason, unknown: BTreeMap::new() };
            self.quarantine.insert(digest.to_string(), entry);
        }
        while self.quarantine.len() > QUARANTINE_MAX {
            let oldest = self.quarantine.iter().min_by_key(|(_, it)| it.tid).map(|(digest, _)| digest.clone());
            self.quarantine.remove(&oldest.expect("it is not empty"));
        }
    }

    /// Takes down that the probation of what a swap put in force has ended well.
    pub fn confirmed(&mut self, swap: Tid) {
        self.probation.retain(|_, it| it.tid != swap);
    }

    /// Takes down that the probation of what a swap put in force has ended badly, and that it could not be taken back.
    pub fn failed(&mut self, swap: Tid, reason: &str) {
        for (plugin, it) in std::mem::take(&mut self.probation) {
            if it.tid == swap {
                let failed = Failed { to: it.to, tid: swap, reason: reason.to_owned(), unknown: BTreeMap::new() };
                self.failed.insert(plugin, failed);
            } else {
                self.probation.insert(plugin, it);
            }
        }
    }

    /// Takes down that the host died.
    pub fn crashed(&mut self) {
        self.probation.values_mut().for_each(|it| it.crashes += 1);
    }

    /// The plugins on probation by the swap that put them in force.
    pub fn trials(&self) -> BTreeMap<Tid, BTreeMap<&str, &OnProbation>> {
        let mut trials: BTreeMap<Tid, BTreeMap<&str, &OnProbation>> = BTreeMap::new();
        for (plugin, probation) in &self.probation {
            trials.entry(probation.tid).or_default().insert(plugin, probation);
        }
        trials
    }
}

/// A change of what the host remembers, for the transaction that causes it.
pub fn remember(change: impl FnOnce(&mut Memory, &Moment<'_>) + Send + 'static) -> Remember {
    Box::new(move |moment| {
        let before = match Memory::decode(moment.remembered) {
            Ok(memory) => memory,
            // It is verified, so a newer host wrote it; to write over it would be worse than to leave it.
            Err(error) => {
                log::error!("the host's own object is not understood and stays as it is: {error}");
                return None;
            }
        };
        let mut after = before.clone();
        change(&mut after, &moment);
        (after != before).then(|| theseus_value::to_vec(&after).expect("its keys are texts and its numbers fit"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    /// What is remembered after a change.
    fn after(remembered: &[u8], change: impl FnOnce(&mut Memory, &Moment<'_>) + Send + 'static) -> Option<Vec<u8>> {
        remember(change)(Moment { tid: Tid(7), time_us: 1_000, remembered })
    }

    #[test]
    fn it_reads_back_and_is_written_only_when_it_changes() {
        let nothing = theseus_value::to_vec(&BTreeMap::<String, u64>::new()).unwrap();
        assert_eq!(after(&nothing, |_, _| {}), None, "nothing to remember, nothing to write");
        let swapped = [("counter".to_owned(), Some(digest(1)), digest(2)), ("ledger".to_owned(), None, digest(3))];
        let bytes = after(&nothing, move |memory, moment| memory.swapped(moment, &swapped, Some(60))).unwrap();
        assert!(Value::decode(&bytes).is_ok(), "it is deterministic CBOR");
        assert_eq!(after(&bytes, |_, _| {}), None);
        let memory = Memory::decode(&bytes).unwrap();
        let counter = &memory.probation["counter"];
        assert_eq!((counter.from, counter.to, counter.tid), (Some(digest(1)), digest(2), Tid(7)));
        assert_eq!((counter.since_us, counter.until_us, counter.crashes), (1_000, 1_060, 0));
        assert_eq!(memory.previous["ledger"].from, None);
        let trial: Vec<_> = memory.trials()[&Tid(7)].keys().copied().collect();
        assert_eq!(trial, ["counter", "ledger"]);
    }

    #[test]
    fn what_is_not_known_is_kept() {
        let entry = serde_json::json!({
            "from": null, "to": digest(2), "since_us": 1, "until_us": 2, "tid": 3, "crashes": 0, "colour": "red"
        });
        let text = serde_json::json!({ "probation": { "counter": entry }, "future": [1, { "a": true }] });
        let bytes = theseus_value::to_vec(&text).unwrap();
        let bytes = after(&bytes, |memory, _| memory.crashed()).unwrap();
        let memory: serde_json::Value = theseus_value::from_slice(&bytes).unwrap();
        assert_eq!(memory["future"], text["future"]);
        assert_eq!(memory["probation"]["counter"]["colour"], "red");
        assert_eq!(memory["probation"]["counter"]["crashes"], 1);
    }

    #[test]
    fn what_is_not_understood_is_not_overwritten() {
        let bytes = theseus_value::to_vec(&serde_json::json!({ "probation": 5 })).unwrap();
        assert_eq!(after(&bytes, |memory, _| memory.crashed()), None);
    }

    #[test]
    fn a_rollback_leaves_nothing_to_go_back_to() {
        let (mut memory, moment) = (Memory::default(), Moment { tid: Tid(9), time_us: 5, remembered: &[] });
        memory.swapped(&moment, &[("counter".into(), Some(digest(1)), digest(2))], Some(60));
        memory.rolled_back(&moment, &["counter".into()], &[("counter".into(), digest(2), "it fell".into())]);
        assert!(memory.probation.is_empty() && memory.previous.is_empty());
        assert_eq!(memory.rolled_back, Some(Tid(9)));
        let quarantined = &memory.quarantine[&digest(2).to_string()];
        assert_eq!((quarantined.tid, quarantined.time_us, &*quarantined.reason), (Tid(9), 5, "it fell"));
        memory.swapped(&moment, &[("counter".into(), Some(digest(1)), digest(2))], None);
        assert!(memory.quarantine.is_empty(), "who forces it in has overruled that");
        assert!(memory.probation.is_empty(), "no window, no probation");
    }

    #[test]
    fn the_quarantine_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..=QUARANTINE_MAX as u64 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let moment = Moment { tid: Tid(number + 1), time_us: 5, remembered: &[] };
            memory.rolled_back(&moment, &[], &[("p".into(), Digest::from_bytes(bytes), String::new())]);
        }
        assert_eq!(memory.quarantine.len(), QUARANTINE_MAX);
        assert!(memory.quarantine.values().all(|it| it.tid > Tid(1)), "the oldest has gone");
    }
}
