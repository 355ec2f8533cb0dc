//! What each command does.

use std::{
    cell::Cell,
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use theseus_value::strict_json::{self, Strict};

use super::{
    Arguments, Command,
    client::{Ask, Client, escaped},
    consistency,
    fault::{Exit, Fault},
    output, plugin, rehearsal, run,
};
use crate::{
    config::Config,
    gateway::{
        json as forms,
        request::{parse_at, parse_ref},
    },
    home::Home,
    runtime::{
        action::{Action, Answer, At, ObjectRef},
        offline,
    },
};

/// How often `status --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a command that only reads goes on trying while a host is just ending or starting, and how often.
const READ_PATIENCE: Duration = Duration::from_secs(5);
const READ_INTERVAL: Duration = Duration::from_millis(50);

/// How many names or transactions are asked for at once.
const PAGE: usize = 1000;

/// Executes the command line.
pub(super) fn execute(arguments: Arguments) -> Result<(), Fault> {
    match arguments.command {
        Command::Completions { shell } => completions(shell),
        Command::Man { command } => manual(command),
        Command::Plugin { command } => plugin::execute(&arguments.global, command),
        command => Session { home: arguments.global.home()?, json: arguments.global.json }.execute(command),
    }
}

/// Reads, and reads again while a host is just ending or starting.
fn patiently<T>(mut read: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let started = Instant::now();
    loop {
        match read() {
            Err(fault) if fault.is_passing() && started.elapsed() < READ_PATIENCE => thread::sleep(READ_INTERVAL),
            done => return done,
        }
    }
}

/// A command about one home.
pub(super) struct Session {
    pub(super) home: Home,
    /// Print documents instead of text for people.
    pub(super) json: bool,
}

impl Session {
    fn execute(&self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Init => self.init(),
            Command::Run => run::run(&self.home),
            Command::Hold { reason } => {
                self.need_identity()?;
                offline::hold(&self.home, &reason)?;
                self.print(&json!({ "held": reason }).to_string(), |_| "restart cycles are held back\n".to_owned())
            }
            Command::Resume => {
                self.need_identity()?;
                let held = offline::resume(&self.home)?;
                self.print(&json!({ "was_held": held }).to_string(), |_| match &held {
                    Some(reason) => format!("resumed; it was held: {reason}\n"),
                    None => "nothing was held\n".to_owned(),
                })
            }
            Command::Status { watch } => self.status(watch),
            Command::New { behavior, name, slots } => {
                let slots = slots.map(|slots| parsed("--slots", &slots)).transpose()?;
                self.make(json!({ "behavior": behavior, "name": name, "slots": slots }))
            }
            Command::Clone { object, name } => self.make(json!({ "clone": object, "name": name })),
            Command::Derive { object, name, also } => {
                let parents: Vec<_> = [object].into_iter().chain(also).collect();
                self.make(json!({ "derive": parents, "name": name }))
            }
            Command::Name { object, name } => self.name(&object, &name),
            Command::Unname { name } => self.unname(&name),
            Command::Parents { object, parents, none } => self.parents(&object, &parents, none),
            Command::Misses => self.misses(),
            Command::Gc { dry_run } => self.collect(dry_run),
            Command::Call { object, method, arguments, request_id } => {
                self.call(&object, &method, arguments, request_id)
            }
            Command::Get { object, at } => self.get(&object, at.as_deref()),
            Command::Delete { object } => {
                let text = self.running()?.ask(Ask::delete(object_path(&object)?))?;
                self.print(&text, |_| format!("deleted {object}\n"))
            }
            Command::Ls { condition: Some(condition), behavior, .. } => self.find(&condition, behavior),
            Command::Ls { prefix, at, .. } => self.list(&prefix, at),
            Command::History { object, from, follow, limit } => self.history(object, &from, follow, limit),
            Command::Undo { tids, request_id } => {
                let ask = Ask::post("/v1/undo", json!({ "tids": tids })).with_request_id(request_id);
                self.print(&self.running()?.ask(ask)?, output::undone)
            }
            Command::Post { object, method, arguments, delay, every, request_id } => {
                self.post((&object, &method), arguments, delay, every, request_id)
            }
            Command::Messages { command } => self.messages(command),
            Command::Index { command } => self.index(command),
            Command::Backup { to: Some(folder), .. } => self.backup(&folder),
            Command::Backup { to: None, check } => {
                let folder = check.ok_or_else(|| Fault::usage("say --to DIR or --check DIR"))?;
                self.check_backup(&folder)
            }
            Command::Restore { from, to } => self.restore(&from, to),
            Command::Export { file, at } => self.export(at.as_deref().map(moment).transpose()?, file.as_deref()),
            Command::Import { file, keep_ids } => self.import(&file, keep_ids),
            Command::Verify { resume, head } => {
                let print = |document: &Json, text: fn(&Json) -> String| self.print(&document.to_string(), text);
                let how = consistency::Verifying { resume, kept_head: head.as_deref(), with_notes: !self.json };
                consistency::verify(&self.home, &how, &print)
            }
            Command::Repair => {
                let print = |document: &Json, text: fn(&Json) -> String| self.print(&document.to_string(), text);
                consistency::repair(&self.home, &print)
            }
            Command::Plugins => {
                let text = self.ask_anyhow("/v1/plugins".into(), Action::Plugins)?;
                self.print(&text, output::plugins)
            }
            Command::Plan { paths } => self.plan(&paths),
            Command::Rehearse { paths, last, all_differences } => self.rehearse(&paths, last, all_differences),
            Command::Pack(args) => self.pack(&args),
            Command::Swap { paths, options } => {
                let request = options.beside(json!({ "paths": absolute(&paths)? }));
                let text = self.running()?.ask(Ask::post("/v1/swap", request))?;
                self.print(&text, output::swap)
            }
            Command::Rollback { plugin } => {
                let text = self.running()?.ask(Ask::post("/v1/rollback", json!({ "plugin": plugin })))?;
                self.print(&text, output::rollback)
            }
            Command::Apply { bundle, reason, options } => {
                let [bundle] = &absolute(&[bundle])?[..] else { unreachable!("one path in, one path out") };
                let request = options.beside(json!({ "bundle": bundle, "reason": reason }));
                let text = self.running()?.ask(Ask::post("/v1/apply", request))?;
                self.print(&text, output::applied)
            }
            Command::Completions { .. } | Command::Man { .. } | Command::Plugin { .. } | Command::Confined => {
                unreachable!("was done before")
            }
        }
    }

    fn init(&self) -> Result<(), Fault> {
        let failed = |error: io::Error| Fault::failed("cannot_init", format!("{} cannot be made: {error}", self.home));
        fs::create_dir_all(self.home.path()).map_err(failed)?;
        let config = Config::load(&self.home)?;
        let identity = offline::init(&self.home, &config)?;
        config.write_if_missing(&self.home).map_err(failed)?;
        let home = self.home.path().display().to_string();
        let document = json!({ "identity": identity, "home": home });
        self.print(&document.to_string(), |_| {
            format!("identity {identity} in {home}\nrun its host with: theseus --home {home} run\n")
        })
    }

    fn status(&self, watch: bool) -> Result<(), Fault> {
        loop {
            let text = match self.ask_anyhow("/v1/status".into(), Action::Status) {
                Err(fault) if watch => {
                    // A host that is being restarted is just what one wants to watch.
                    _ = fault.report(self.json);
                    thread::sleep(WATCH_INTERVAL);
                    continue;
                }
                asked => asked?,
            };
            if watch && !self.json && io::stdout().is_terminal() {
                // Clears the screen and begins at its top (ECMA-48 ED and CUP).
                write!(io::stdout(), "\x1b[2J\x1b[H")?;
            }
            self.print(&text, output::status)?;
            if !watch {
                return Ok(());
            }
            thread::sleep(WATCH_INTERVAL);
        }
    }

    /// `new`, `clone`, `derive`: prints the id alone.
    fn make(&self, mut body: Json) -> Result<(), Fault> {
        if let Json::Object(fields) = &mut body {
            fields.retain(|_, field| !field.is_null());
        }
        let text = self.running()?.ask(Ask::post("/v1/objects", body))?;
        self.print(&text, |document| format!("{}\n", document["id"]))
    }

    fn call(
        &self,
        object: &str,
        method: &str,
        arguments: Option<String>,
        request_id: Option<String>,
    ) -> Result<(), Fault> {
        let body = arguments.map(|text| call_body(&text)).transpose()?.unwrap_or_default();
        let path = format!("{}/{}", object_path(object)?, escaped(method));
        let text = self.running()?.ask(Ask::post(path, body).with_request_id(request_id))?;
        self.print(&text, |document| match &document["result"] {
            Json::String(text) => format!("{text}\n"),
            result => format!("{result}\n"),
        })
    }

    fn get(&self, object: &str, at: Option<&str>) -> Result<(), Fault> {
        let path = object_path(object)? + &at.map_or(String::new(), |at| format!("?at={}", escaped(at)));
        let at = at.map(moment).transpose()?;
        let text = self.ask_anyhow(path, Action::Get { object: named(object)?, at })?;
        self.print(&text, output::object)
    }

    fn list(&self, prefix: &str, mut at: Option<String>) -> Result<(), Fault> {
        let (mut names, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut path = format!("/v1/objects?limit={PAGE}&prefix={}", escaped(prefix));
            for (name, value) in [("at", &at), ("after", &after)] {
                path += &value.as_ref().map_or(String::new(), |value| format!("&{name}={}", escaped(value)));
            }
            let moment = at.as_deref().map(moment).transpose()?;
            let action = Action::List { prefix: prefix.to_owned(), after, limit: PAGE, at: moment };
            let mut page = document(&self.ask_anyhow(path, action)?)?;
            if let Some(page) = page["names"].as_array_mut() {
                names.append(page);
            }
            // All pages show the same moment. An identity in which nothing has happened has none to go back to.
            at = page["at"].as_u64().filter(|tid| *tid > 0).map(|tid| tid.to_string());
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        let all = json!({ "names": names });
        self.print(&all.to_string(), |all| output::names(&all["names"]))
    }

    fn history(&self, object: Option<String>, from: &str, follow: bool, limit: Option<u64>) -> Result<(), Fault> {
        let (next, left) = (Cell::new(moment(from)?), Cell::new(limit));
        patiently(|| {
            if left.get() == Some(0) {
                return Ok(());
            }
            let Some(mut client) = Client::connect(&self.home)? else {
                if follow {
                    return Err(Fault::no_host(&self.home));
                }
                let reference = object.as_deref().map(named).transpose()?;
                return self.history_offline(reference, next.get(), left.get());
            };
            let place = object.as_deref().map(object_path).transpose()?.unwrap_or_else(|| "/v1".into());
            let first = match next.get() {
                At::Tid(tid) => tid.to_string(),
                At::Time { .. } => escaped(from),
            };
            let mut path = format!("{place}/history?from={first}&follow={}", u8::from(follow));
            if let Some(left) = left.get() {
                path += &format!("&limit={left}");
            }
            client.ask_lines(Ask::get(path), |line| {
                let transaction = document(line)?;
                if transaction["packed"].is_u64() {
                    return self.print(line, output::packed);
                }
                let Some(tid) = transaction["tid"].as_u64() else {
                    return Err(Fault::from_problem(transaction["error"].clone()));
                };
                self.print(line, output::transaction)?;
                // Where to go on should the connection break.
                next.set(At::Tid(tid + 1));
                left.set(left.get().map(|left| left.saturating_sub(1)));
                Ok(())
            })
        })
    }

    fn history_offline(&self, object: Option<ObjectRef>, from: At, limit: Option<u64>) -> Result<(), Fault> {
        let mut left = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut from = Some(from);
        while let Some(first) = from
            && left > 0
        {
            let action = Action::History { object: object.clone(), from: first, limit: left.min(PAGE) };
            let Answer::History { transactions, next, packed } = self.offline(action)? else {
                unreachable!("History is answered with History")
            };
            left -= transactions.len();
            if let Some(packed) = packed {
                self.print(&forms::packed(packed).to_string(), output::packed)?;
            }
            for transaction in &transactions {
                self.print(&forms::transaction(transaction).to_string(), output::transaction)?;
            }
            from = next.map(At::Tid);
        }
        Ok(())
    }

    fn plan(&self, paths: &[PathBuf]) -> Result<(), Fault> {
        let text = self.running()?.ask(Ask::post("/v1/plan", json!({ "paths": absolute(paths)? })))?;
        self.print(&text, output::plan)?;
        if document(&text)?["kind"] == "refused" { Err(Fault::Shown(Exit::Refused)) } else { Ok(()) }
    }

    fn rehearse(&self, paths: &[PathBuf], last: u64, all_differences: bool) -> Result<(), Fault> {
        let request = json!({ "paths": absolute(paths)?, "last": last, "all_differences": all_differences });
        let text = self.running()?.ask(Ask::post("/v1/rehearse", request))?;
        self.print(&text, rehearsal::report)?;
        let errors = document(&text)?["counts"]["error"].as_u64().unwrap_or(0);
        if errors > 0 { Err(Fault::Shown(Exit::Refused)) } else { Ok(()) }
    }

    /// The running host, which this command needs.
    pub(super) fn running(&self) -> Result<Client, Fault> {
        Client::connect(&self.home)?.ok_or_else(|| Fault::no_host(&self.home))
    }

    /// Asks the running host, or the identity itself if none runs.
    pub(super) fn ask_anyhow(&self, path: String, action: Action) -> Result<String, Fault> {
        patiently(|| match Client::connect(&self.home)? {
            Some(mut client) => client.ask(Ask::get(path.clone())),
            None => Ok(forms::answer(&self.offline(action.clone())?).to_string()),
        })
    }

    fn offline(&self, action: Action) -> Result<Answer, Fault> {
        self.need_identity()?;
        Ok(offline::perform(&self.home, action)?)
    }

    pub(super) fn need_identity(&self) -> Result<(), Fault> {
        if self.home.identity().exists() {
            return Ok(());
        }
        let make = format!("{} holds no identity; make one with `theseus --home {} init`", self.home, self.home);
        Err(Fault::failed("no_identity", make))
    }

    /// Prints a document as it is, or as text for people.
    pub(super) fn print(&self, text: &str, human: impl FnOnce(&Json) -> String) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{text}")?;
        } else {
            out.write_all(human(&document(text)?).as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

impl super::SwapOptions {
    /// A request with these options added.
    pub(super) fn beside(&self, mut request: Json) -> Json {
        let Self { rehearse, irreversible, eager, quarantined } = *self;
        request["rehearse"] = json!(rehearse);
        request["irreversible"] = json!(irreversible);
        request["eager"] = json!(eager);
        request["quarantined"] = json!(quarantined);
        request
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::description(), "theseus", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

fn manual(command: Option<String>) -> Result<(), Fault> {
    let mut theseus = super::description();
    theseus.build();
    let described = match &command {
        None => theseus,
        Some(name) => match theseus.find_subcommand(name) {
            Some(described) => described.clone(),
            None => return Err(Fault::usage(format!("there is no command `{name}`"))),
        },
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(described).render(&mut page)?;
    Ok(io::stdout().write_all(&page)?)
}

/// A moment as the person wrote it.
fn moment(text: &str) -> Result<At, Fault> {
    parse_at(text).map_err(Fault::usage)
}

pub(super) fn named(object: &str) -> Result<ObjectRef, Fault> {
    parse_ref(object).map_err(Fault::usage)
}

pub(super) fn object_path(object: &str) -> Result<String, Fault> {
    named(object)?;
    Ok(format!("/v1/objects/{}", escaped(object)))
}

/// The body of a call. What was written is passed on unchanged, so that no number loses a digit on the way.
pub(super) fn call_body(text: &str) -> Result<String, Fault> {
    Ok(match parsed("ARGS-JSON", text)? {
        Json::Object(_) | Json::Array(_) => text.to_owned(),
        _ => format!("[{text}]"),
    })
}

fn parsed(what: &str, text: &str) -> Result<Json, Fault> {
    let quotes = format!("a text needs quotes within quotes, such as '\"{text}\"'");
    let read = strict_json::parse(text.as_bytes());
    let Strict(json) = read.map_err(|error| Fault::usage(format!("{what} is not as expected: {error}; {quotes}")))?;
    Ok(json)
}

pub(super) fn document(text: &str) -> Result<Json, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::failed("bad_answer", format!("the host did not answer in JSON: {error}")))
}

/// Paths as the host, which works in another folder, can use them.
fn absolute(paths: &[PathBuf]) -> Result<Vec<String>, Fault> {
    let one = |path: &PathBuf| -> Result<String, Fault> {
        let show = |path: &Path| path.display().to_string();
        let absolute = std::path::absolute(path);
        let absolute = absolute.map_err(|error| Fault::usage(format!("{} is no path: {error}", show(path))))?;
        absolute.into_os_string().into_string().map_err(|_| Fault::usage(format!("{} is not UTF-8", show(path))))
    };
    paths.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_named_positional_or_alone() {
        assert_eq!(call_body(r#"{"by": 5}"#).unwrap(), r#"{"by": 5}"#);
        assert_eq!(call_body("[1, 2]").unwrap(), "[1, 2]");
        assert_eq!(call_body("5").unwrap(), "[5]");
        assert_eq!(call_body("18446744073709551615").unwrap(), "[18446744073709551615]");
        assert_eq!(call_body("\"word\"").unwrap(), "[\"word\"]");
        assert_eq!(call_body("null").unwrap(), "[null]");
        let Fault::Told { exit, message, .. } = call_body("word").unwrap_err() else { panic!("not told") };
        assert_eq!(exit, 2);
        assert!(message.contains("'\"word\"'"), "{message}");
    }

    #[test]
    fn paths_become_absolute() {
        let here = std::env::current_dir().unwrap();
        let paths = absolute(&["a/b.so".into(), "/c.so".into()]).unwrap();
        assert_eq!(paths, [here.join("a/b.so").to_str().unwrap(), "/c.so"]);
    }
}
