//! Commands about the object graph: names, parents, messages that nobody understands, objects that cannot be reached.

use serde_json::{Value as Json, json};

use super::{
    client::{Ask, escaped},
    commands::{Session, document, named, object_path},
    fault::Fault,
    output::{items, plain, table},
};
use crate::{gateway::time::format_time, runtime::action::Action};

impl Session {
    pub(super) fn name(&self, object: &str, name: &str) -> Result<(), Fault> {
        named(object)?;
        let text = self.running()?.ask(Ask::put(name_path(name)?, json!({ "object": object })))?;
        self.print(&text, |document| format!("object {} is {name}\n", document["id"]))
    }

    pub(super) fn unname(&self, name: &str) -> Result<(), Fault> {
        let text = self.running()?.ask(Ask::delete(name_path(name)?))?;
        self.print(&text, |_| format!("{name} is free\n"))
    }

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

    pub(super) fn collect(&self, dry_run: bool) -> Result<(), Fault> {
        let text = self.running()?.ask(Ask::post("/v1/gc", json!({ "dry_run": dry_run })))?;
        self.print(&text, collected)
    }
}

fn name_path(name: &str) -> Result<String, Fault> {
    named(name)?;
    Ok(format!("/v1/names/{}", escaped(name)))
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

fn collected(document: &Json) -> String {
    let (objects, unreachable) = (&document["objects"], &document["unreachable"]);
    let mut text = format!("{unreachable} of {objects} objects cannot be reached");
    if document["spared"] != 0 {
        text += &format!(", {} more were touched meanwhile and stay", document["spared"]);
    }
    if document["dry_run"] == true {
        return text + "\n";
    }
    let transactions: Vec<_> = items(&document["transactions"]).collect();
    text += &match transactions[..] {
        [] => "; nothing was removed".to_owned(),
        [only] => format!("; {} were removed in transaction {only}", document["removed"]),
        [first, .., last] => {
            let (removed, count) = (&document["removed"], transactions.len());
            format!("; {removed} were removed in {count} transactions from {first} to {last}")
        }
    };
    text + "\n"
}
