//! Commands about posted messages, and about objects by what a slot holds.

use std::{thread, time::Duration};

use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::{
    client::{Ask, escaped},
    commands::{Session, call_body, document, named},
    fault::Fault,
    output::{items, plain, table},
};
use crate::{
    gateway::{finding::parse_where, time::format_time},
    runtime::action::{Action, WhichMessages},
};

/// How many objects or messages are asked for at once.
const PAGE: usize = 1000;

/// How often `index create` looks whether the index is complete.
const INDEX_INTERVAL: Duration = Duration::from_millis(100);

/// What can be done about posted messages.
#[derive(Subcommand)]
pub(super) enum MessagesCommand {
    /// Lists them: those that wait by when they are due, then those that were set aside.
    #[command(after_help = "Examples:\n  theseus messages list --object visits\n  theseus messages list --set-aside")]
    List {
        /// Only those to this object: its id or its name.
        #[arg(long, value_name = "OBJECT")]
        object: Option<String>,
        /// Only those that were set aside.
        #[arg(long)]
        set_aside: bool,
        /// Only those that wait.
        #[arg(long, conflicts_with = "set_aside")]
        waiting: bool,
    },
    /// Takes one back: it is not delivered any more.
    #[command(after_help = "Examples:\n  theseus messages cancel 57")]
    Cancel {
        /// Its number.
        message: u64,
    },
    /// Delivers one at once whose delivery has failed.
    #[command(after_help = "Examples:\n  theseus messages retry 57")]
    Retry {
        /// Its number.
        message: u64,
    },
}

/// What can be done about indexes.
#[derive(Subcommand)]
pub(super) enum IndexCommand {
    /// Makes one, and waits until all objects are in it.
    #[command(after_help = "Examples:\n  theseus index create counter.Counter count")]
    Create {
        /// The behaviour.
        behavior: String,
        /// The slot.
        slot: String,
        /// Do not wait: it is filled in the background.
        #[arg(long)]
        no_wait: bool,
    },
    /// Removes one.
    #[command(after_help = "Examples:\n  theseus index drop counter.Counter count")]
    Drop {
        /// The behaviour.
        behavior: String,
        /// The slot.
        slot: String,
    },
    /// Lists them.
    #[command(after_help = "Examples:\n  theseus index ls")]
    Ls,
}

impl Session {
    pub(super) fn post(
        &self,
        (object, method): (&str, &str),
        arguments: Option<String>,
        delay_ms: Option<u64>,
        every_ms: Option<u64>,
        request_id: Option<String>,
    ) -> Result<(), Fault> {
        named(object)?;
        let arguments = arguments.map(|text| call_body(&text)).transpose()?.unwrap_or_else(|| "null".to_owned());
        // The arguments are passed on as they were written.
        let (object, method) = (json!(object), json!(method));
        let (delay_ms, every_ms) = (json!(delay_ms), json!(every_ms));
        let body = format!(
            r#"{{"target":{object},"method":{method},"arguments":{arguments},"delay_ms":{delay_ms},"every_ms":{every_ms}}}"#
        );
        let text = self.running()?.ask(Ask::post("/v1/messages", body).with_request_id(request_id))?;
        self.print(&text, |document| format!("{}\n", document["id"]))
    }

    pub(super) fn messages(&self, command: Option<MessagesCommand>) -> Result<(), Fault> {
        match command.unwrap_or(MessagesCommand::List { object: None, set_aside: false, waiting: false }) {
            MessagesCommand::List { object, set_aside, waiting } => {
                let (which, state) = match (set_aside, waiting) {
                    (true, _) => (WhichMessages::SetAside, "&state=set_aside"),
                    (_, true) => (WhichMessages::Waiting, "&state=waiting"),
                    _ => (WhichMessages::All, ""),
                };
                let target = object.as_deref().map(named).transpose()?;
                let of = object.map_or(String::new(), |object| format!("&target={}", escaped(&object)));
                let all = self.pages("messages", &format!("/v1/messages?limit={PAGE}{state}{of}"), |after| {
                    Action::Messages { target: target.clone(), which, after, limit: PAGE }
                })?;
                self.print(&json!({ "messages": all }).to_string(), messages)
            }
            MessagesCommand::Cancel { message } => {
                let text = self.running()?.ask(Ask::delete(format!("/v1/messages/{message}")))?;
                self.print(&text, |_| format!("cancelled {message}\n"))
            }
            MessagesCommand::Retry { message } => {
                let text = self.running()?.ask(Ask::post(format!("/v1/messages/{message}/retry"), ""))?;
                self.print(&text, |_| format!("message {message} is delivered again\n"))
            }
        }
    }

    /// `ls --where`.
    pub(super) fn find(&self, condition: &str, behavior: Option<String>) -> Result<(), Fault> {
        let (slot, parsed) = parse_where(condition).map_err(Fault::usage)?;
        let of = behavior.as_ref().map_or(String::new(), |behavior| format!("&behavior={}", escaped(behavior)));
        let path = format!("/v1/objects?limit={PAGE}&where={}{of}", escaped(condition));
        let all = self.pages("objects", &path, |after| {
            let (behavior, slot, condition) = (behavior.clone(), slot.clone(), parsed.clone());
            Action::Find { behavior, slot, condition, after, limit: PAGE }
        })?;
        self.print(&json!({ "objects": all }).to_string(), objects)
    }

    pub(super) fn index(&self, command: IndexCommand) -> Result<(), Fault> {
        match command {
            IndexCommand::Create { behavior, slot, no_wait } => {
                let body = json!({ "behavior": behavior, "slot": slot });
                let mut text = self.running()?.ask(Ask::post("/v1/indexes", body))?;
                while !no_wait && document(&text)?["complete"] == false {
                    thread::sleep(INDEX_INTERVAL);
                    let all = document(&self.running()?.ask(Ask::get("/v1/indexes"))?)?;
                    let ours = |it: &&Json| it["behavior"] == behavior && it["slot"] == slot;
                    let found = items(&all["indexes"]).find(ours);
                    text = found.map(Json::to_string).ok_or_else(|| {
                        Fault::failed("no_index", "the index was dropped while it was built: create it again")
                    })?;
                }
                self.print(&text, |index| match index["complete"] == true {
                    true => format!("index of {behavior} by {slot} is complete\n"),
                    false => format!("index of {behavior} by {slot} is being built\n"),
                })
            }
            IndexCommand::Drop { behavior, slot } => {
                let path = format!("/v1/indexes?behavior={}&slot={}", escaped(&behavior), escaped(&slot));
                let text = self.running()?.ask(Ask::delete(path))?;
                self.print(&text, |_| format!("dropped the index of {behavior} by {slot}\n"))
            }
            IndexCommand::Ls => {
                let text = self.ask_anyhow("/v1/indexes".into(), Action::Indexes)?;
                self.print(&text, indexes)
            }
        }
    }

    /// Everything that comes in pages with a `next`.
    fn pages(&self, list: &str, path: &str, action: impl Fn(Option<String>) -> Action) -> Result<Vec<Json>, Fault> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let from = after.as_ref().map_or(String::new(), |after| format!("&after={after}"));
            let mut page = document(&self.ask_anyhow(format!("{path}{from}"), action(after.clone()))?)?;
            all.append(page[list].as_array_mut().unwrap_or(&mut Vec::new()));
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                return Ok(all);
            }
        }
    }
}

/// Reads a length of time such as `500ms`, `30s`, `5m`, `2h` or `1d`, in milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let each = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("expected a number and one of ms, s, m, h and d, such as 30s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number, such as 30s".to_owned())?;
    // A host counts microseconds.
    let ms = number.checked_mul(each).filter(|ms| ms.checked_mul(1000).is_some());
    ms.ok_or_else(|| "that is too long".to_owned())
}

fn objects(document: &Json) -> String {
    let rows = items(&document["objects"])
        .map(|object| [object["id"].to_string(), plain(&object["behavior"]), object["value"].to_string()]);
    table(["OBJECT", "BEHAVIOR", "VALUE"], rows)
}

fn messages(document: &Json) -> String {
    let rows = items(&document["messages"]).map(|message| {
        let due = match message["due_us"].as_u64() {
            Some(due_us) => format_time(due_us),
            None => "set aside".to_owned(),
        };
        let error = match &message["error"] {
            Json::Null => String::new(),
            error => format!("{} attempts: {}", message["attempts"], plain(&error["message"])),
        };
        [message["id"].to_string(), due, message["target"].to_string(), plain(&message["method"]), error]
    });
    table(["MESSAGE", "DUE", "TO", "METHOD", "LAST ERROR"], rows)
}

fn indexes(document: &Json) -> String {
    let rows = items(&document["indexes"]).map(|index| {
        let state = if index["complete"] == true { "complete" } else { "being built" };
        [plain(&index["behavior"]), plain(&index["slot"]), state.to_owned()]
    });
    table(["BEHAVIOR", "SLOT", "STATE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        let read = ["5ms", "30s", "2m", "1h", "3d"].map(|text| milliseconds(text).unwrap());
        assert_eq!(read, [5, 30_000, 120_000, 3_600_000, 259_200_000]);
        for wrong in ["5", "s", "", "5 s", "-1s", "99999999999999999d", "1000000000d"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }
}
