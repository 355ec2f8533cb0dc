//! Reports as people read them.

use std::fmt::Write as _;

use crate::{account::Account, feed::FeedReport, load::LoadReport};

/// The summary of a feed.
pub fn feed(report: &FeedReport) -> String {
    let FeedReport { events, seconds, events_per_s, batches, alerts, attempts, .. } = report;
    let mut text = String::new();
    row(&mut text, "events", &format!("{events} in {seconds:.2} s, {events_per_s:.0}/s, {batches} requests"));
    if report.resumed_after > 0 {
        row(&mut text, "went on after", &format!("{} events of an earlier run", report.resumed_after));
    }
    row(&mut text, "retried", &format!("{} requests, after broken connections", attempts.broken));
    row(&mut text, "not connected", &format!("{} connections refused", attempts.refused));
    row(&mut text, "alerts raised", &alerts.to_string());
    text
}

/// The table of a load.
pub fn load(report: &LoadReport) -> String {
    let mut text = String::new();
    let counters = &report.counters;
    row(&mut text, "sent", &report.sent.to_string());
    let rate = format!("{} in {:.1} s, {:.0}/s", report.answered, report.seconds, report.answers_per_s);
    row(&mut text, "answered", &rate);
    row(&mut text, "retried", &format!("{} (the connection broke before the answer)", report.attempts.broken));
    row(&mut text, "not connected", &format!("{} (connections refused)", report.attempts.refused));
    row(&mut text, "refused", &report.refused.to_string());
    row(&mut text, "unanswered", &report.unanswered.to_string());
    row(&mut text, "wrong answers", &counters.wrong.to_string());
    row(&mut text, "lost", &format!("{} of {} acknowledged increments", counters.lost, counters.acknowledged));
    row(&mut text, "executed twice", &counters.executed_twice.to_string());
    if let Some((before, after)) = report.ledger_total {
        let verdict = if before == after { "the same" } else { "NOT THE SAME" };
        row(
            &mut text,
            "ledger total",
            &format!("{before} before, {after} after {} transfers: {verdict}", report.transfers),
        );
    }
    let latency = &report.latency;
    row(
        &mut text,
        "latency",
        &format!(
            "p50 {}, p99 {}, p99.9 {}, max {}",
            time(latency.p50_us),
            time(latency.p99_us),
            time(latency.p999_us),
            time(latency.max_us)
        ),
    );
    row(&mut text, "longest gap", &format!("{} without an answer to any client", time(report.longest_silence_us)));
    for sample in &report.samples {
        row(&mut text, "such as", sample);
    }
    text
}

/// The account of a demonstration.
pub fn account(account: &Account) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{line}").expect("memory takes writes");
    line("\nWhat was done to the host");
    for event in &account.events {
        let slowest = event.slowest_us.map_or_else(|| "no request".to_owned(), time);
        let flights = if event.during_flights { "" } else { " (no flight came in meanwhile)" };
        line(&format!("  {:>6.1} s  {}, {:.0} ms{flights}", event.at_s, event.what, event.took_ms));
        line(&format!("            {}", event.note));
        line(&format!("            slowest request meanwhile: {slowest}"));
    }
    line("\nWhat became of the requests on counters and ledger");
    line(load(&account.load).trim_end());
    line("\nWhat became of the flights");
    line(feed(&account.flights).trim_end());
    let rule = account.second_rule_from_line.map_or_else(String::new, |from| format!(", second rule from line {from}"));
    let mut checks = String::new();
    row(&mut checks, "same as awk", &format!("the figures of {} objects{rule}", account.figures_equal));
    line(checks.trim_end());
    line("\nWho executed it");
    for generation in &account.executed {
        let digest = generation.digest.get(..16).unwrap_or(&generation.digest);
        line(&format!(
            "  {:<14}{digest}  {} transactions, {} to {}",
            generation.plugin, generation.transactions, generation.first_tid, generation.last_tid
        ));
    }
    line(&format!(
        "\n{} transactions, {} verified, {} request ids executed more than once",
        account.transactions, account.verified_transactions, account.request_ids_repeated
    ));
    if account.problems.is_empty() {
        line("Everything is accounted for.");
    } else {
        line("NOT as it should be:");
        for problem in &account.problems {
            line(&format!("- {problem}"));
        }
    }
    text
}

fn row(text: &mut String, name: &str, value: &str) {
    writeln!(text, "  {name:<16}{value}").expect("memory takes writes");
}

/// A time given in microseconds, in a unit that suits it.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}
