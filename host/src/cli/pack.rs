//! `theseus pack`.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{client::Ask, commands::Session, fault::Fault};
use crate::gateway::time::format_time;

/// How far to pack, and whether to.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
pub(super) struct PackArgs {
    #[command(flatten)]
    until: Until,
    /// Tell what would be gone, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[group(required = true, multiple = false)]
struct Until {
    /// Let go of the transactions up to this one, which goes too, or up to this time; if a batch goes on beyond that, up to the end
    /// of the one before. The state as of the last of them is kept.
    #[arg(long, value_name = "TID|TIME")]
    before: Option<String>,
    /// Keep what was committed in the last days.
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<u64>,
}

impl Session {
    pub(super) fn pack(&self, args: &PackArgs) -> Result<(), Fault> {
        let PackArgs { until: Until { before, keep_days }, dry_run } = args;
        let request = json!({ "before": before, "keep_days": keep_days, "dry_run": dry_run });
        let text = self.running()?.ask(Ask::post("/v1/pack", request))?;
        self.print(&text, packed)
    }
}

fn packed(view: &Json) -> String {
    let (first, last) = (&view["first"], &view["packed"]);
    if view["transactions"] == 0 {
        return match last.as_u64() {
            Some(0) => "nothing to pack: no batch ends by then\n".to_owned(),
            _ => format!("nothing to pack: everything up to transaction {last} is packed already\n"),
        };
    }
    let at = |name: &str| format_time(view[name].as_u64().unwrap_or_default());
    let will = if view["dry_run"] == true { "would be" } else { "is" };
    // Writing into a `String` cannot fail.
    let mut out = String::new();
    _ = writeln!(out, "transactions {first} to {last}, committed from {} to {}:", at("from_us"), at("to_us"));
    _ = writeln!(out, "  what they did {will} out of reach: their records, and the answers to repeated requests");
    _ = writeln!(out, "  the state as of {last} and later {will} kept, that as of an earlier transaction is not");
    _ = writeln!(out, "  what they did can not be undone any more");
    if view["dry_run"] == true {
        _ = writeln!(out, "at most {} bytes are needed for the base; nothing was changed", view["bytes_max"]);
    } else {
        let (tid, objects, ms) = (&view["tid"], &view["objects"], &view["elapsed_ms"]);
        _ = writeln!(out, "packed in transaction {tid}: {objects} objects in the base, after {ms} ms");
        _ = writeln!(out, "the room of the records is used again; a backup that is restored makes the file smaller");
    }
    out
}
