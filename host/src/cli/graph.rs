//! Commands about the object graph: parents, and messages that nobody understands.

use serde_json::{Value as Json, json};

use super::{
    client::Ask,
    commands::{Session, document, named, object_path},
    fault::Fault,
    output::{items, plain, table},
};
use crate::{gateway::time::format_time, runtime::action::Action};

impl Session {
    pub(super) fn parents(&self, object: &str, parents: &[String], none: bool) -> Result<(), Fault> {
        let path = object_path(object)?;
        if parents.is_empty() && !none {
            let text = self.ask_anyhow(path, Action::Get { object: named(object)?, at: None })?;
            return self.print(&json!({ "parents": document(&text)?["parents"] }).to_string(), list);
        }
        let text = self.running()?.ask(Ask::put(path + "/parents", json!({ "parents": parents })))?;
        self.print(&text, list)
    }

    pub(super) fn misses(&self) -> Result<(), Fault> {
        let text = self.running()?.ask(Ask::get("/v1/misses"))?;
        self.print(&text, misses)
    }
}

fn list(document: &Json) -> String {
    items(&document["parents"]).map(|id| format!("{id}\n")).collect()
}

fn misses(document: &Json) -> String {
    let at = |us: &Json| format_time(us.as_u64().unwrap_or_default());
    let rows = items(&document["misses"]).map(|miss| {
        let (behavior, selector) = (plain(&miss["behavior"]), plain(&miss["selector"]));
        [behavior, selector, miss["count"].to_string(), at(&miss["first_us"]), at(&miss["last_us"])]
    });
    table(["BEHAVIOR", "METHOD", "COUNT", "FIRST", "LAST"], rows)
}
