//! The account of a demonstration: what the history tells, and what it has to agree with.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    path::Path,
    process::Command,
};

use serde::Serialize;
use serde_json::Value;

use crate::{api::Host, demo::DemoError, feed::FeedReport, flights, load::LoadReport, programs};

/// How many transactions are read from the history at once.
const HISTORY_PAGE: usize = 1_000;
/// Request ids of flights, before the line number.
pub(crate) const FLIGHT_IDS: &str = "flight-";
/// How many faults of the history are told one by one.
const PROBLEMS_MAX: usize = 20;
/// How many differences are shown.
const DIFFERENCES_MAX: u64 = 5;

/// What happened.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Account {
    /// What was done to the host, in order.
    pub events: Vec<Event>,
    /// The traffic on counters and the ledger.
    pub load: LoadReport,
    /// The flights.
    pub flights: FeedReport,
    /// The first line of the file of flights that version 2 of the plugin executed.
    pub second_rule_from_line: Option<u64>,
    /// Objects whose figures are the same as those computed independently.
    pub figures_equal: u64,
    /// Who executed how many transactions.
    pub executed: Vec<Executed>,
    /// Transactions of the history, and request ids that occur in more than one.
    pub transactions: u64,
    /// Request ids that were executed more than once, in all of the history.
    pub request_ids_repeated: u64,
    /// The transactions that `theseus verify` walked once all was over.
    pub verified_transactions: u64,
    /// Everything that is not as it should be; empty if the voyage went well.
    pub problems: Vec<String>,
}

/// Something that was done to the host while it worked.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Event {
    /// What.
    pub what: String,
    /// Seconds since the traffic began.
    pub at_s: f64,
    /// How long it took, in milliseconds, until the host worked as intended.
    pub took_ms: f64,
    /// The slowest request of the load that was under way meanwhile or shortly after, in microseconds.
    pub slowest_us: Option<u64>,
    /// Whether the flights were under way as well.
    pub during_flights: bool,
    /// What the host told about it.
    pub note: String,
}

/// A plugin's generation, and what it did.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// The plugin.
    pub plugin: String,
    /// The digest of its file.
    pub digest: String,
    /// Transactions that it executed.
    pub transactions: u64,
    /// The first and the last of them.
    pub first_tid: u64,
    /// The last.
    pub last_tid: u64,
}

/// What the history tells.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) transactions: u64,
    pub(crate) flights: u64,
    pub(crate) request_ids_repeated: u64,
    pub(crate) second_rule_from_line: Option<u64>,
    pub(crate) executed: Vec<Executed>,
    pub(crate) problems: Vec<String>,
    request_ids: HashSet<String>,
    /// The digest that executed the first flight, and the line of the last one.
    first_digest: Option<String>,
    last_line: u64,
}

/// Reads the whole history.
pub(crate) fn read_history(host: &mut Host) -> Result<Record, DemoError> {
    let mut record = Record::default();
    loop {
        let mut page = Vec::with_capacity(HISTORY_PAGE);
        if host.history(record.transactions + 1, HISTORY_PAGE, &mut |transaction| page.push(transaction))? == 0 {
            return Ok(record);
        }
        for transaction in page {
            let tid = number(&transaction, "history", "tid")?;
            record.transactions += 1;
            if tid != record.transactions {
                record.problem(format!("transaction {} is missing from the history", record.transactions));
                record.transactions = tid;
            }
            let by = &transaction["executed_by"];
            let digest = by["digest"].as_str();
            if let (Some(plugin), Some(digest)) = (by["plugin"].as_str(), digest) {
                record.executed_by(plugin, digest, tid);
            }
            if let Some(request_id) = transaction["request_id"].as_str() {
                record.request(request_id, digest, tid);
            }
        }
    }
}

impl Record {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn executed_by(&mut self, plugin: &str, digest: &str, tid: u64) {
        // There are as many generations as swaps, and the latest ones are asked for most.
        if let Some(generation) = self.executed.iter_mut().rev().find(|known| known.digest == digest) {
            generation.transactions += 1;
            generation.last_tid = tid;
            return;
        }
        let (plugin, digest) = (plugin.to_owned(), digest.to_owned());
        self.executed.push(Executed { plugin, digest, transactions: 1, first_tid: tid, last_tid: tid });
    }

    fn request(&mut self, request_id: &str, digest: Option<&str>, tid: u64) {
        if !self.request_ids.insert(request_id.to_owned()) {
            self.request_ids_repeated += 1;
            self.problem(format!("request {request_id} was executed again in transaction {tid}"));
        }
        let Some(line) = request_id.strip_prefix(FLIGHT_IDS).and_then(|line| line.parse::<u64>().ok()) else { return };
        self.flights += 1;
        if line <= self.last_line {
            self.problem(format!("the flight of line {line} was executed after that of line {}", self.last_line));
        }
        self.last_line = line;
        if self.first_digest.is_none() {
            self.first_digest = digest.map(str::to_owned);
        }
        if self.second_rule_from_line.is_none() && self.first_digest.as_deref() != digest {
            self.second_rule_from_line = Some(line);
        }
    }
}

/// Compares the host's figures with those that awk computes from the file. Returns how many are equal.
pub(crate) fn compare_figures(
    host: &mut Host,
    file: &Path,
    program: &Path,
    second_rule_from_line: Option<u64>,
    problems: &mut Vec<String>,
) -> Result<u64, DemoError> {
    let mut told = Vec::new();
    flights::write_figures(host, &mut told)?;
    let told = String::from_utf8_lossy(&told).into_owned();
    let rule = second_rule_from_line.map_or_else(|| "v1".to_owned(), |line| line.to_string());
    let computed = programs::run(Command::new(program).arg(file).arg(rule))?;
    let (equal, differences) = compare_lines(&told, &computed);
    if let Some(differences) = differences {
        problems.push(format!("the figures differ from those of {}:\n{differences}", program_name(program)));
    }
    Ok(equal)
}

/// Compares two sorted tables by their first column. Returns how many lines are equal, and shows the first that are not.
fn compare_lines(told: &str, computed: &str) -> (u64, Option<String>) {
    let by_name = |table: &str| -> BTreeMap<String, String> {
        table.lines().map(|line| (line.split('\t').next().unwrap_or_default().to_owned(), line.to_owned())).collect()
    };
    let (told, computed) = (by_name(told), by_name(computed));
    let names: BTreeSet<&String> = told.keys().chain(computed.keys()).collect();
    let (mut equal, mut different, mut shown) = (0_u64, 0_u64, String::new());
    for name in names {
        let (told, computed) = (told.get(name), computed.get(name));
        if told == computed {
            equal += 1;
            continue;
        }
        different += 1;
        if different <= DIFFERENCES_MAX {
            let nothing = "(nothing)".to_owned();
            let (told, computed) = (told.unwrap_or(&nothing), computed.unwrap_or(&nothing));
            writeln!(shown, "    host     {told}\n    computed {computed}").expect("memory takes writes");
        }
    }
    if different == 0 {
        return (equal, None);
    }
    write!(shown, "    {different} of {} lines differ", different + equal).expect("memory takes writes");
    (equal, Some(shown))
}

/// A whole number in one of the host's answers.
pub(crate) fn number(document: &Value, what: &'static str, field: &'static str) -> Result<u64, DemoError> {
    document[field].as_u64().ok_or_else(|| DemoError::Missing { what, field, document: document.clone() })
}

fn program_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_compared_line_by_line() {
        assert_eq!(compare_lines("a\t1\nb\t2\n", "a\t1\nb\t2\n"), (2, None));
        let (equal, differences) = compare_lines("a\t1\nb\t2\n", "b\t3\nc\t4\n");
        assert_eq!(equal, 0);
        let differences = differences.unwrap();
        assert!(differences.contains("host     a\t1\n    computed (nothing)"), "{differences}");
        assert!(differences.ends_with("3 of 3 lines differ"), "{differences}");
    }
}
