//! Why a command did not succeed: for people, for programs, and as an exit code.

use std::{io, process::ExitCode};

use serde_json::{Value as Json, json};

use crate::{
    config::ConfigError,
    home::Home,
    runtime::{
        OpenError,
        action::{ActionError, codes},
    },
};

/// The exit codes of the contract other than 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NoHost = 3,
    Refused = 4,
    Damaged = 5,
}

impl Exit {
    /// That of a process which has said what is wrong.
    pub(crate) fn of(code: i32) -> Exit {
        let all = [Exit::Usage, Exit::NoHost, Exit::Refused, Exit::Damaged];
        all.into_iter().find(|exit| *exit as i32 == code).unwrap_or(Exit::Failed)
    }
}

/// Code of an identity that is not whole.
const IDENTITY_DAMAGED: &str = theseus_abi::FailureCode::IDENTITY_DAMAGED.name();

/// Code of a connection that broke off before the whole answer came.
pub(crate) const CONNECTION_LOST: &str = "connection_lost";

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Something is wrong, and has to be told.
    Told {
        code: String,
        message: String,
        exit: u8,
        /// The problem document of the host, if it was the host that said no.
        problem: Option<Json>,
    },
    /// The document on standard output has said it all.
    Shown(Exit),
    /// Whoever read the output has had enough, as `head` does. Nothing failed.
    NobodyReads,
}

impl Fault {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Fault {
        Fault::Told { code: code.into(), message: message.into(), exit: exit as u8, problem: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Fault {
        Fault::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn failed(code: &str, message: impl Into<String>) -> Fault {
        Fault::new(Exit::Failed, code, message)
    }

    /// Whether a command that only reads may try again: a host is just ending or starting.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Fault::Told { code, .. } if code == CONNECTION_LOST || code == codes::IDENTITY_IN_USE)
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Fault {
        Fault::new(Exit::Damaged, IDENTITY_DAMAGED, message)
    }

    pub(crate) fn no_host(home: &Home) -> Fault {
        let start = format!("no host is running in {home}; start it with `theseus --home {home} run`");
        Fault::new(Exit::NoHost, "no_host", start)
    }

    /// What the host answered instead of what was asked for.
    pub(crate) fn from_problem(problem: Json) -> Fault {
        let text = |field: &str| problem[field].as_str().map(str::to_owned);
        let code = text("code").unwrap_or_else(|| "unknown".into());
        let message = text("detail").or_else(|| text("title")).unwrap_or_else(|| problem.to_string());
        let exit = exit_of(&code) as u8;
        Fault::Told { code: with_kind(code, text("kind")), message, exit, problem: Some(problem) }
    }

    /// Tells it, and gives the exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        match self {
            Fault::NobodyReads => ExitCode::SUCCESS,
            Fault::Shown(exit) => ExitCode::from(exit as u8),
            Fault::Told { code, message, exit, problem } => {
                if json {
                    let problem = problem.unwrap_or_else(
                        || json!({ "type": format!("urn:theseus:error:{code}"), "code": code, "detail": message }),
                    );
                    eprintln!("{problem}");
                } else {
                    eprintln!("theseus: {code}: {message}");
                }
                ExitCode::from(exit)
            }
        }
    }
}

/// The exit code for an error of the host.
fn exit_of(code: &str) -> Exit {
    match code {
        codes::PLUGIN_REFUSED | codes::PLAN_REFUSED | codes::REHEARSAL_FAILED | codes::NO_INDEX | "forbidden" => {
            Exit::Refused
        }
        codes::UNDO_CONFLICT | codes::NOT_UNDOABLE => Exit::Refused,
        codes::BAD_REQUEST => Exit::Usage,
        IDENTITY_DAMAGED => Exit::Damaged,
        _ => Exit::Failed,
    }
}

/// `refused/overdraft`: the behaviour's own word says more than the code alone.
fn with_kind(code: String, kind: Option<String>) -> String {
    match kind {
        Some(kind) => format!("{code}/{kind}"),
        None => code,
    }
}

impl From<ActionError> for Fault {
    fn from(error: ActionError) -> Fault {
        let exit = exit_of(&error.code) as u8;
        Fault::Told { code: with_kind(error.code, error.kind), message: error.message, exit, problem: None }
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Fault {
        let (code, exit) = (error.code().to_owned(), error.exit_code());
        Fault::Told { code, message: error.to_string(), exit, problem: None }
    }
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Fault {
        OpenError::from(error).into()
    }
}

impl From<io::Error> for Fault {
    /// For errors of standard output; others need words around them.
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Fault::NobodyReads,
            _ => Fault::failed("output", format!("the output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_for(code: &str) -> u8 {
        match Fault::from_problem(json!({ "code": code, "detail": "because" })) {
            Fault::Told { exit, .. } => exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        assert_eq!(exit_for("refused"), 1);
        assert_eq!(exit_for("bad_request"), 2);
        assert_eq!(exit_for("plugin_refused"), 4);
        assert_eq!(exit_for("plan_refused"), 4);
        let Fault::Told { exit, message, .. } = Fault::no_host(&Home::new("/srv/x")) else { panic!("not told") };
        assert_eq!(exit, 3);
        assert!(message.contains("theseus --home /srv/x run"), "{message}");
    }

    #[test]
    fn the_behaviours_own_word_is_shown() {
        let problem = json!({ "code": "refused", "kind": "overdraft", "detail": "too little" });
        let Fault::Told { code, message, .. } = Fault::from_problem(problem) else { panic!("not told") };
        assert_eq!((code.as_str(), message.as_str()), ("refused/overdraft", "too little"));
    }
}
