//! What has to come of requests after they were answered: messages are delivered, timers go off, and what something leads to stays when the
//! rest is collected. Each client notes it here, and it is held against the files while no host runs.

use std::{collections::HashMap, sync::Mutex};

use serde_json::Value;

use crate::{
    api::{ApiError, Host},
    programs::{ProgramError, Theseus},
};

/// An object without a name, and what it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Nameless {
    pub id: u64,
    pub count: i64,
}

/// A message that is delivered again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Timer {
    /// The message.
    pub message: u64,
    /// The counter to which it goes.
    pub target: u64,
    /// How long a period is, in microseconds.
    pub every_us: u64,
    /// When any period begins, less whole periods, in microseconds since the Unix epoch.
    pub phase_us: u64,
}

impl Timer {
    /// In which period a time is.
    fn period(&self, time_us: u64) -> u64 {
        time_us.saturating_sub(self.phase_us) / self.every_us
    }
}

/// What one client expects.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The counter to which all messages of this client go.
    pub mailbox: u64,
    /// What each message adds that was posted.
    pub posted: Vec<i64>,
    /// What the message adds that is being posted: nobody knows yet whether it is there.
    pub posting: Option<i64>,
    pub timer: Option<Timer>,
    /// What the timer's counter stood at when it was looked at last.
    pub ticks: i64,
    /// The object to which the client's holder refers.
    pub held: Option<Nameless>,
    /// The one to which it is being made to refer: nobody knows yet to which of the two it does.
    pub holding: Option<Nameless>,
    /// Those to which nothing refers any more.
    pub let_go: Vec<u64>,
}

/// What each client expects, by its number. A lock each, because a client notes what it does while others look.
pub(super) struct All(Vec<Mutex<Expected>>);

/// The counter to which a client's messages go.
pub(super) fn mailbox(client: usize) -> String {
    format!("mailbox-{client}")
}

/// The counter to which its timer goes.
pub(super) fn clock(client: usize) -> String {
    format!("clock-{client}")
}

/// The object that refers to another one, which has no name.
pub(super) fn holder(client: usize) -> String {
    format!("holder-{client}")
}

impl All {
    pub(super) fn new(clients: usize) -> All {
        All((0..clients).map(|_| Mutex::default()).collect())
    }

    /// Has `look` look at what a client expects, or change it.
    pub(super) fn of<R>(&self, client: usize, look: impl FnOnce(&mut Expected) -> R) -> R {
        look(&mut self.0[client].lock().expect("nothing panics while it holds this lock"))
    }

    /// Compares all with the files, while no host runs; tells what is wrong.
    pub(super) fn compare_with_files(&self, theseus: &Theseus) -> Result<Vec<String>, ProgramError> {
        let listed = theseus.json(&["messages"])?;
        let none = Vec::new();
        let messages = listed["messages"].as_array().unwrap_or(&none);
        let mut problems = Vec::new();
        for message in messages.iter().filter(|message| !message["set_aside_us"].is_null()) {
            problems.push(format!("a message was set aside: {message}"));
        }
        for client in 0..self.0.len() {
            // The client goes on when a host answers, and none does now.
            self.of(client, |expected| {
                // It may not have begun yet.
                if expected.timer.is_none() {
                    return Ok(());
                }
                let object = |name: &str| theseus.json(&["get", name]);
                let found = Found {
                    delivered: count(&object(&mailbox(client))?),
                    waiting: messages.iter().filter(|it| it["target"] == expected.mailbox).map(adds).sum(),
                    clock: object(&clock(client))?,
                    holder: object(&holder(client))?,
                };
                let parent = found.holder["parents"][0].as_u64();
                // One that is gone counts nothing.
                let counts = |id: u64| object(&id.to_string()).map_or(i64::MIN, |it| count(&it));
                let told = expected.compare(&found, parent.map(|id| Nameless { id, count: counts(id) }));
                problems.extend(told.into_iter().map(|problem| format!("client {client}: {problem}")));
                Ok(())
            })?;
        }
        Ok(problems)
    }

    /// Compares with the host when all clients are done: every message was delivered, and a collection leaves what is held and nothing else.
    /// Answers how many objects it removed.
    pub(super) fn compare_with_host(&self, host: &mut Host, problems: &mut Vec<String>) -> Result<u64, ApiError> {
        let collected = host.post("/v1/gc", &serde_json::json!({}))?;
        let again = host.post("/v1/gc", &serde_json::json!({ "dry_run": true }))?;
        if again["unreachable"] != 0 {
            problems.push(format!("a collection left something behind: {again}"));
        }
        for client in 0..self.0.len() {
            self.of(client, |expected| {
                let delivered = host.ask(&mailbox(client), "count")?;
                if delivered != expected.posted.iter().sum::<i64>() {
                    problems.push(format!("client {client}: {delivered} was delivered of {:?}", expected.posted));
                }
                let ticks = host.ask(&clock(client), "count")?;
                if ticks != expected.ticks {
                    let was = expected.ticks;
                    problems.push(format!("client {client}: its timer was cancelled at {was}, and now it is {ticks}"));
                }
                if let Some(Nameless { id, count }) = expected.held {
                    let found = host.ask(&id.to_string(), "count");
                    if !matches!(&found, Ok(found) if *found == count) {
                        problems
                            .push(format!("client {client}: object {id} is held at {count}, and answers {found:?}"));
                    }
                }
                for id in &expected.let_go {
                    match host.ask(&id.to_string(), "count") {
                        Err(ApiError::Problem(problem)) if problem.status == 404 => {}
                        other => {
                            problems.push(format!("object {id} was let go of and collected, and answers {other:?}"))
                        }
                    }
                }
                Ok::<_, ApiError>(())
            })?;
        }
        Ok(collected["removed"].as_u64().unwrap_or(0))
    }

    /// See [`Expected::compare_with_history`].
    pub(super) fn compare_with_history(&self, deliveries: &HashMap<u64, Vec<(u64, i64)>>, packed: bool) -> Vec<String> {
        let clients = 0..self.0.len();
        clients
            .flat_map(|client| self.of(client, |expected| expected.compare_with_history(deliveries, packed)))
            .collect()
    }
}

/// What the files say about what a client expects.
struct Found {
    /// What the messages added that were delivered.
    delivered: i64,
    /// What those will add that wait.
    waiting: i64,
    clock: Value,
    holder: Value,
}

impl Expected {
    fn compare(&mut self, found: &Found, parent: Option<Nameless>) -> Vec<String> {
        let mut problems = Vec::new();
        let (posted, there) = (self.posted.iter().sum::<i64>(), found.delivered + found.waiting);
        if there != posted && Some(there - posted) != self.posting {
            let Found { delivered, waiting, .. } = found;
            problems.push(format!(
                "messages that add {posted} were posted, and perhaps {:?}: {delivered} is delivered and {waiting} waits",
                self.posting
            ));
        }
        let ticks = count(&found.clock);
        if ticks < self.ticks || found.clock["version"].as_i64() != Some(ticks + 1) {
            problems.push(format!("its timer was at {} and is at {}", self.ticks, found.clock));
        }
        self.ticks = ticks;
        let holds = parent == self.held || (self.holding.is_some() && parent == self.holding);
        if !holds {
            let (held, holding) = (self.held, self.holding);
            problems.push(format!("it holds {parent:?}, and should hold {held:?} or {holding:?}: {}", found.holder));
        }
        problems
    }

    /// Compares with the deliveries that the history has, oldest first: each target's, with time and arguments. `packed` if some may not be there any
    /// more.
    fn compare_with_history(&self, deliveries: &HashMap<u64, Vec<(u64, i64)>>, packed: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let of = |target| deliveries.get(&target).map_or(&[][..], Vec::as_slice);
        let mut missing: HashMap<i64, i64> = HashMap::new();
        self.posted.iter().for_each(|adds| *missing.entry(*adds).or_default() += 1);
        for (_, adds) in of(self.mailbox) {
            *missing.entry(*adds).or_default() -= 1;
        }
        for (adds, times) in missing.into_iter().filter(|(_, times)| *times < 0 || (*times > 0 && !packed)) {
            let what = if times < 0 { "more than once" } else { "not at all" };
            problems.push(format!("the message that adds {adds} was delivered {what}"));
        }
        if let Some(timer) = self.timer {
            let ticks = of(timer.target);
            let doubled = ticks.windows(2).find(|two| timer.period(two[1].0) <= timer.period(two[0].0));
            if let Some(two) = doubled {
                problems.push(format!("a timer went off twice in one period of {} us, at {two:?}", timer.every_us));
            }
            if ticks.len() as i64 > self.ticks || (!packed && (ticks.len() as i64) < self.ticks) {
                problems.push(format!(
                    "a timer went off {} times in the history, and counts {}",
                    ticks.len(),
                    self.ticks
                ));
            }
        }
        problems
    }
}

fn count(object: &Value) -> i64 {
    object["slots"]["count"].as_i64().unwrap_or(i64::MIN)
}

fn adds(message: &Value) -> i64 {
    message["arguments"]["by"].as_i64().unwrap_or(i64::MIN / 1_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HELD: Nameless = Nameless { id: 9, count: 4 };
    const HOLDING: Nameless = Nameless { id: 10, count: 5 };

    /// Two messages were posted and perhaps a third one, and the holder is on the way from one object to another.
    fn expected() -> Expected {
        Expected {
            mailbox: 1,
            posted: vec![100, 20],
            posting: Some(3),
            timer: Some(Timer { message: 7, target: 2, every_us: 10, phase_us: 5 }),
            ticks: 3,
            held: Some(HELD),
            holding: Some(HOLDING),
            let_go: Vec::new(),
        }
    }

    fn found(delivered: i64, waiting: i64, ticks: i64) -> Found {
        let clock = json!({ "version": ticks + 1, "slots": { "count": ticks } });
        Found { delivered, waiting, clock, holder: json!({}) }
    }

    #[test]
    fn faultless_files_compare_clean() {
        for (delivered, waiting, ticks, parent) in
            [(100, 20, 3, HELD), (0, 120, 4, HOLDING), (123, 0, 9, HELD), (120, 3, 3, HELD)]
        {
            let problems = expected().compare(&found(delivered, waiting, ticks), Some(parent));
            assert_eq!(problems, Vec::<String>::new());
        }
    }

    #[test]
    fn every_kind_of_fault_of_the_files_shows() {
        let is_told = |found: &Found, parent| assert_eq!(expected().compare(found, parent).len(), 1);
        is_told(&found(100, 0, 3), Some(HELD));
        is_told(&found(100, 40, 3), Some(HELD));
        is_told(&found(120, 20, 3), Some(HELD));
        is_told(&found(120, 0, 2), Some(HELD));
        is_told(&Found { clock: json!({ "version": 6, "slots": { "count": 4 } }), ..found(120, 0, 4) }, Some(HELD));
        is_told(&found(120, 0, 3), None);
        is_told(&found(120, 0, 3), Some(Nameless { count: i64::MIN, ..HELD }));
        is_told(&found(120, 0, 3), Some(Nameless { id: 11, ..HELD }));
        let settled = Expected { holding: None, posting: None, ..expected() }.compare(&found(123, 0, 3), Some(HOLDING));
        assert_eq!(settled.len(), 2);
    }

    #[test]
    fn every_kind_of_fault_of_the_history_shows() {
        let problems = |mail: &[i64], ticks: &[u64], packed| {
            let mail = mail.iter().map(|adds| (0, *adds)).collect();
            let ticks = ticks.iter().map(|time_us| (*time_us, 1)).collect();
            Expected { posting: None, ..expected() }.compare_with_history(&[(1, mail), (2, ticks)].into(), packed).len()
        };
        // A period begins with each time that ends with 5.
        assert_eq!(problems(&[20, 100], &[15, 34, 35], false), 0);
        assert_eq!(problems(&[20], &[34, 35], true), 0);
        assert_eq!(problems(&[20], &[15, 34, 35], false), 1);
        assert_eq!(problems(&[20, 100, 20], &[15, 34, 35], false), 1);
        assert_eq!(problems(&[20, 20], &[15, 34, 35], true), 1);
        assert_eq!(problems(&[20, 100], &[15, 35, 44], false), 1);
        assert_eq!(problems(&[20, 100], &[15, 35], false), 1);
        assert_eq!(problems(&[20, 100], &[15, 25, 35, 45], true), 1);
    }
}
