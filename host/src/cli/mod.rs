//! The command line: `theseus`, for operators and scripts.
//!
//! A command talks to the running host through its control socket. Some also work on an identity whose host does not
//! run, and print the same then. Documents go to standard output, errors to standard error. `docs/cli.md` is the
//! reference.

mod client;
mod commands;
mod consistency;
mod exit;
mod fault;
mod finding;
mod graph;
mod keeping;
mod output;
mod pack;
mod plugin;
mod rehearsal;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::fault::Fault;
use crate::{gateway::request::parse_at, home::Home, runtime};

/// Runs a host of living objects whose behaviour can be replaced while it works, and talks to it.
#[derive(Parser)]
#[command(name = "theseus", version, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 no host running, 4 refused (policy, ABI, plan), 5 identity damaged.

Examples:
  theseus init                              make an identity in ~/.theseus
  theseus run                               run its host
  theseus swap target/release/libcounter.so bring in a plugin
  theseus new counter.Counter visits        make an object named visits
  theseus call visits increment 5           send it a message")]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// The folder of the identity [default: ~/.theseus].
    #[arg(long, global = true, env = "THESEUS_HOME", value_name = "DIR", hide_env_values = true)]
    home: Option<PathBuf>,
    /// Print one JSON document (a stream prints one a line), and errors as a JSON line.
    #[arg(long, global = true)]
    json: bool,
}

impl Global {
    fn home(&self) -> Result<Home, Fault> {
        if let Some(folder) = &self.home {
            return Ok(Home::new(folder));
        }
        let user = std::env::home_dir().filter(|folder| !folder.as_os_str().is_empty());
        let user = user.ok_or_else(|| Fault::usage("you have no home folder; say --home DIR"))?;
        Ok(Home::new(user.join(".theseus")))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Makes a new, empty identity and its settings file.
    #[command(after_help = "Examples:\n  theseus init\n  theseus --home /srv/theseus init")]
    Init,
    /// Runs the host until SIGTERM or SIGINT, then finishes what it has begun.
    #[command(after_help = "Examples:\n  theseus run\n  theseus --home /srv/theseus run")]
    Run,
    /// Shows the state of the host.
    #[command(after_help = "Examples:\n  theseus status\n  theseus status --json\n  theseus status --watch")]
    Status {
        /// Show it again every second, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Makes an object and prints its id.
    #[command(after_help = "\
Examples:
  theseus new counter.Counter
  theseus new counter.Counter visits --slots '{\"count\": 5}'")]
    New {
        /// Its behaviour, as `theseus plugins` lists them.
        behavior: String,
        /// A unique name for it.
        name: Option<String>,
        /// Its slots, as a JSON object; those left out get the behaviour's defaults.
        #[arg(long, value_name = "JSON")]
        slots: Option<String>,
    },
    /// Sends a message and prints the answer.
    #[command(after_help = "\
Examples:
  theseus call visits count
  theseus call visits increment 5               one argument
  theseus call visits increment '{\"by\": 5}'     by name
  theseus call visits move_to '[{\"$ref\": 7}, 3]' by position
  theseus call visits increment 5 --request-id order-17   executed once, however often it is sent")]
    Call {
        /// The object: its id or its name.
        object: String,
        /// The method.
        method: String,
        /// A JSON object (arguments by name), array (by position), or any other JSON (the only argument).
        #[arg(value_name = "ARGS-JSON", allow_negative_numbers = true)]
        arguments: Option<String>,
        /// Makes the message safe to repeat: it is executed once for each id.
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Shows an object, now or as it was.
    #[command(
        after_help = "Examples:\n  theseus get visits\n  theseus get 7 --at 120\n  theseus get visits --at 2026-11-20T10:00:00Z"
    )]
    Get {
        /// The object: its id or its name, which it had then.
        object: String,
        /// As of this transaction or time.
        #[arg(long, value_name = "TID|TIME", value_parser = moment)]
        at: Option<String>,
    },
    /// Lists named objects, now or as they were, or objects by what a slot holds.
    #[command(
        after_help = "Examples:\n  theseus ls\n  theseus ls account/\n  theseus ls --at 2026-11-20T10:00:00Z\n  theseus ls --where 'count>=5' --behavior counter.Counter"
    )]
    Ls {
        /// Only names that begin so.
        #[arg(default_value = "")]
        prefix: String,
        /// As of this transaction or time.
        #[arg(long, value_name = "TID|TIME", value_parser = moment)]
        at: Option<String>,
        /// Objects whose own slot holds what is said: SLOT=VALUE, or with <, <=, >, >=. Takes an index.
        #[arg(long = "where", value_name = "SLOT=VALUE", conflicts_with_all = ["prefix", "at"])]
        condition: Option<String>,
        /// The behaviour of these objects, if several have an index by the slot.
        #[arg(long, requires = "condition")]
        behavior: Option<String>,
    },
    /// Posts a message, which is delivered once, also after a crash, and prints its number.
    #[command(after_help = "\
Examples:
  theseus post visits increment 5               at once, after the commit
  theseus post visits increment 5 --in 30s
  theseus post visits increment 5 --every 1h    again and again")]
    Post {
        /// The object: its id or its name.
        object: String,
        /// The method.
        method: String,
        /// A JSON object (arguments by name), array (by position), or any other JSON (the only argument).
        #[arg(value_name = "ARGS-JSON", allow_negative_numbers = true)]
        arguments: Option<String>,
        /// When: after so long, such as 500ms, 30s, 5m, 2h or 1d.
        #[arg(long = "in", value_name = "TIME", value_parser = finding::milliseconds)]
        delay: Option<u64>,
        /// Again and again, after each such time. Periods that were missed are not made up for.
        #[arg(long, value_name = "TIME", value_parser = finding::milliseconds)]
        every: Option<u64>,
        /// Makes the posting safe to repeat: it is done once for each id.
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Lists posted messages, takes them back, or has them delivered again.
    #[command(after_help = "Examples:\n  theseus messages\n  theseus messages cancel 57\n  theseus messages retry 57")]
    Messages {
        #[command(subcommand)]
        command: Option<finding::MessagesCommand>,
    },
    /// Makes, removes and lists indexes, which `ls --where` takes.
    #[command(after_help = "Examples:\n  theseus index create counter.Counter count\n  theseus index ls")]
    Index {
        #[command(subcommand)]
        command: finding::IndexCommand,
    },
    /// Copies an object and prints the copy's id.
    #[command(after_help = "Examples:\n  theseus clone visits\n  theseus clone visits visits-2")]
    Clone {
        /// The object: its id or its name.
        object: String,
        /// A unique name for the copy.
        name: Option<String>,
    },
    /// Makes an empty object that delegates to others, and prints its id.
    #[command(after_help = "\
Examples:
  theseus derive visits
  theseus derive visits visits-today
  theseus derive visits visits-today --also 7 archive    has all three as parents")]
    Derive {
        /// The object to delegate to, whose behaviour the new one gets: its id or its name.
        object: String,
        /// A unique name for the new object.
        name: Option<String>,
        /// More objects to delegate to, with a rank equal to that of the first.
        #[arg(long, value_name = "PARENT", num_args = 1..)]
        also: Vec<String>,
    },
    /// Removes an object and its names; its history stays.
    #[command(after_help = "Examples:\n  theseus delete visits")]
    Delete {
        /// The object: its id or its name.
        object: String,
    },
    /// Gives an object a name, beside those that it has.
    #[command(after_help = "Examples:\n  theseus name 7 visits")]
    Name {
        /// The object: its id or a name.
        object: String,
        /// The new name, which no other object may have.
        name: String,
    },
    /// Frees a name; its object stays, if something else leads to it.
    #[command(after_help = "Examples:\n  theseus unname visits")]
    Unname {
        /// The name.
        name: String,
    },
    /// Shows to which objects an object delegates, or gives it others.
    #[command(after_help = "\
Examples:
  theseus parents visits                 shows them
  theseus parents visits prototype 7     delegates to these two, and no others
  theseus parents visits --none          delegates to nobody")]
    Parents {
        /// The object: its id or its name.
        object: String,
        /// All parents that it is to have; they have equal rank.
        #[arg(value_name = "PARENT", conflicts_with = "none")]
        parents: Vec<String>,
        /// It is to have none.
        #[arg(long)]
        none: bool,
    },
    /// Lists messages that nobody understood since the host started, by behaviour and method.
    #[command(after_help = "Examples:\n  theseus misses\n  theseus misses --json")]
    Misses,
    /// Removes objects that nothing leads to: no name, no message that waits, no object that these lead to.
    #[command(after_help = "\
Examples:
  theseus gc --dry-run     counts them
  theseus gc               removes them, beside everything else")]
    Gc {
        /// Remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Shows transactions, oldest first: all, or those that wrote an object.
    #[command(after_help = "\
Examples:
  theseus history --from 1000 --limit 20
  theseus history visits
  theseus history --follow --json")]
    History {
        /// The object: its id or its name.
        object: Option<String>,
        /// Begin at this transaction or time.
        #[arg(long, value_name = "TID|TIME", default_value = "1", value_parser = moment)]
        from: String,
        /// Go on with new transactions as they come, until interrupted.
        #[arg(long)]
        follow: bool,
        /// Show at most so many.
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Takes transactions back: what they wrote becomes what it was before them, in a new transaction.
    #[command(after_help = "\
Examples:
  theseus undo 1207
  theseus undo 1205 1207 --json")]
    Undo {
        /// The transactions; several are taken back together.
        #[arg(required = true, value_name = "TID")]
        tids: Vec<u64>,
        /// Makes the request safe to repeat: it is executed once for each id.
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Checks every record of the history and compares the objects with it.
    #[command(after_help = "\
Examples:
  theseus verify
  theseus verify --resume --json
  theseus verify --head 10:41d6e0f4d3b0e9a5f3f2f3e5a9f0c3b7a2d1c4e6f8091a2b3c4d5e6f70819203")]
    Verify {
        /// Go on where a verification was interrupted. What it had checked by then is not checked again.
        #[arg(long)]
        resume: bool,
        /// Prove that a head which somebody kept is part of this history.
        #[arg(long, value_name = "TID:HASH")]
        head: Option<String>,
    },
    /// Makes the objects again from the history, after they were lost or damaged. Needs that no host runs.
    #[command(after_help = "Examples:\n  theseus repair\n  theseus repair --json")]
    Repair,
    /// Copies the history and the plugin files into a folder, beside a running host; the next time only what is new.
    #[command(
        after_help = "Examples:\n  theseus backup --to /srv/backup\n  theseus backup --check /srv/backup   read all of it again"
    )]
    #[command(group = clap::ArgGroup::new("what").required(true).args(["to", "check"]))]
    Backup {
        /// The folder, which is made if it is not there.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Read every file of a backup, and every record of it, and say whether it is whole.
        #[arg(long, value_name = "DIR")]
        check: Option<PathBuf>,
    },
    /// Makes the identity that a backup holds, in a home that has none.
    #[command(
        after_help = "Examples:\n  theseus --home /srv/again restore --from /srv/backup\n  theseus --home /srv/past restore --from /srv/backup --to 120"
    )]
    Restore {
        /// The folder of the backup.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Only up to this transaction.
        #[arg(long, value_name = "TID")]
        to: Option<u64>,
    },
    /// Writes all objects and names as JSON, a line each.
    #[command(
        after_help = "Examples:\n  theseus export objects.jsonl\n  theseus export --at 120 | gzip > past.jsonl.gz"
    )]
    Export {
        /// The file, which is replaced; standard output if there is none.
        file: Option<PathBuf>,
        /// As of this transaction or time.
        #[arg(long, value_name = "TID|TIME", value_parser = moment)]
        at: Option<String>,
    },
    /// Adds the objects and names of such a file to an identity whose host does not run, all or none.
    #[command(after_help = "Examples:\n  theseus import objects.jsonl\n  theseus import objects.jsonl --keep-ids")]
    Import {
        /// The file.
        file: PathBuf,
        /// Refuse if an object cannot keep its id, instead of giving it another.
        #[arg(long)]
        keep_ids: bool,
    },
    /// Lists the plugins in force, and replaced ones that are still loaded.
    #[command(after_help = "Examples:\n  theseus plugins\n  theseus plugins --json")]
    Plugins,
    /// Judges, signs and develops plugin files.
    #[command(after_help = "Examples:\n  theseus plugin inspect libcounter.so\n  theseus plugin check libcounter.so")]
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Tells what `apply` would do, without doing it.
    #[command(after_help = "Examples:\n  theseus plan target/release/libcounter.so\n  theseus plan release-2.bundle")]
    Plan {
        /// Plugin files, or a bundle.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Executes recorded transactions again, each on the state that it met, with plugins that are not in force. Changes nothing.
    #[command(
        after_help = "Examples:\n  theseus rehearse libcounter.so\n  theseus rehearse libcounter.so --last 100000 --all-differences --json"
    )]
    Rehearse {
        /// Plugin files.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// How many transactions: the last ones that concern the plugins' behaviours.
        #[arg(long, default_value_t = 1000, value_name = "COUNT")]
        last: u64,
        /// Tell all transactions that come out otherwise, not only the first.
        #[arg(long)]
        all_differences: bool,
    },
    /// Replaces or brings in plugins between two transactions, all of them or none.
    #[command(
        after_help = "Examples:\n  theseus swap target/release/libcounter.so\n  theseus swap libcounter.so libledger.so"
    )]
    Swap {
        /// Plugin files.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        options: SwapOptions,
    },
    /// Takes back the last swap: of one plugin, or of all that were swapped together.
    #[command(after_help = "Examples:\n  theseus rollback\n  theseus rollback counter")]
    Rollback {
        /// Only this plugin.
        plugin: Option<String>,
    },
    /// Does what `plan` says: a swap in the live host, or a restart cycle.
    #[command(after_help = "Examples:\n  theseus apply release-2.bundle --reason 'security fix'")]
    Apply {
        /// The bundle.
        bundle: PathBuf,
        /// Why; it is kept in the history.
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        options: SwapOptions,
    },
    /// Packs the history: what came before leaves it, and the state as of then is kept.
    #[command(
        after_help = "Examples:\n  theseus pack --keep-days 90 --dry-run\n  theseus pack --keep-days 90\n  theseus pack --before 1000000"
    )]
    Pack(pack::PackArgs),
    /// Holds restart cycles back: the watchdog takes no instruction up until `resume`.
    #[command(after_help = "Examples:\n  theseus hold\n  theseus hold --reason 'the disk is being changed'")]
    Hold {
        /// Why, for whoever finds it held.
        #[arg(long, default_value = "by an operator", value_name = "TEXT")]
        reason: String,
    },
    /// Lets restart cycles go on, and a watchdog that gave up start its host again.
    #[command(after_help = "Examples:\n  theseus resume")]
    Resume,
    /// Tries what the host that started it sends. Not for people.
    #[command(hide = true)]
    Confined,
    /// Prints a completion script for a shell.
    #[command(
        after_help = "Examples:\n  theseus completions bash > ~/.local/share/bash-completion/completions/theseus"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or that of a command.
    #[command(after_help = "Examples:\n  theseus man | man -l -\n  theseus man swap | man -l -")]
    Man {
        /// The command.
        command: Option<String>,
    },
}

/// What a swap may do beyond the ordinary.
#[derive(Args)]
struct SwapOptions {
    /// First execute so many recorded transactions again with the new plugins, and refuse if they fail.
    #[arg(long, value_name = "COUNT")]
    rehearse: Option<u64>,
    /// Go on although the old plugins could not take the migrated objects back.
    #[arg(long)]
    irreversible: bool,
    /// Answer when all objects have migrated, not before.
    #[arg(long)]
    eager: bool,
    /// Take a file although it was rolled back before.
    #[arg(long)]
    quarantined: bool,
}

/// Looks whether a text is a moment, so that a wrong one is a wrong use.
fn moment(text: &str) -> Result<String, String> {
    parse_at(text).map(|_| text.to_owned())
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // What is wrong may come before the flag, so it is looked for where it stands.
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            let text = error.to_string();
            return Fault::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end()).report(true);
        }
        Err(error) => error.exit(),
    };
    if let Command::Confined = arguments.command {
        return runtime::work_confined();
    }
    let json = arguments.global.json;
    match commands::execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(json),
    }
}

/// The whole command line, described.
fn description() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        description().debug_assert();
    }

    /// The commands for people.
    fn shown() -> Vec<clap::Command> {
        description().get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
    }

    #[test]
    fn the_command_of_a_confined_process_is_there_and_hidden() {
        let arguments = Arguments::try_parse_from(["theseus", runtime::CONFINED_COMMAND]).unwrap();
        assert!(matches!(arguments.command, Command::Confined));
        assert!(shown().iter().all(|command| command.get_name() != runtime::CONFINED_COMMAND));
    }

    #[test]
    fn every_command_explains_itself_with_examples() {
        let all = description();
        let plugin = all.find_subcommand("plugin").unwrap();
        for mut command in shown().iter().chain(plugin.get_subcommands()).cloned() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  theseus"), "{name}");
            assert!(help.contains(&name), "the examples of {name} do not show it");
            assert!(command.get_about().is_some(), "{name}");
        }
    }

    #[test]
    fn the_reference_shows_every_command() {
        let reference = include_str!("../../../docs/cli.md");
        for command in shown() {
            let name = command.get_name();
            let shown = reference.contains(&format!("`{name}`")) || reference.contains(&format!("`{name} "));
            assert!(shown, "docs/cli.md does not show {name}");
            for within in command.get_subcommands().map(clap::Command::get_name) {
                assert!(reference.contains(&format!("`{name} {within} ")), "docs/cli.md does not show {name} {within}");
            }
        }
    }

    #[test]
    fn global_flags_stand_before_and_after_the_command() {
        for line in ["theseus --home h --json ls", "theseus ls --json --home h", "theseus --json ls --home h"] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert!(arguments.global.json, "{line}");
            assert_eq!(arguments.global.home().unwrap(), Home::new("h"), "{line}");
        }
    }

    #[test]
    fn negative_numbers_are_arguments_of_a_call() {
        let parsed = Arguments::try_parse_from(["theseus", "call", "visits", "increment", "-5", "--json"]).unwrap();
        assert!(parsed.global.json);
        let Command::Call { arguments, .. } = parsed.command else { panic!("not a call") };
        assert_eq!(arguments.as_deref(), Some("-5"));
    }

    #[test]
    fn wrong_use_is_reported_with_code_2() {
        for line in ["theseus", "theseus sail", "theseus swap", "theseus get x --at never"] {
            let Err(error) = Arguments::try_parse_from(line.split(' ')) else { panic!("{line} was taken") };
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
