//! The punctuality of carriers, airports and aircraft, flight by flight: the second version, with another rule for alerts.
//!
//! A mean hides that most flights are on time while some are very late. So there is now an alert while the 90th percentile of
//! the last 50 arrivals is above a limit of its own. An object that the first version left behind gets three times its old
//! limit when it is migrated; what was derived from a prototype has no limit of its own, and goes on to share the prototype's.
//! The old limit is kept, so that the first version can take the objects back.
//!
//! An application tells the *board* about each flight, in one message. Within that transaction the board tells the objects
//! that the flight concerns: its carrier (`carrier/UA`), the airport it left from and the one it went to (`airport/JFK`; once
//! if they are the same), and its aircraft if it is known (`aircraft/N14228`). An object that is not there yet is derived from
//! the prototype of its kind (`prototype/carrier`, ...), which holds what they share: the limit beyond which there is an
//! alert. A limit that is set on a prototype is in force for all that were derived from it, unless they have their own.
//!
//! All figures are integers, so that they can be computed a second time and compared: `scripts/flights-figures` does.

use theseus_plugin::prelude::*;

/// How many of the last arrivals are looked at for an alert.
const WINDOW: usize = 50;
/// How many of its last alerts an object remembers.
const ALERTS_KEPT: usize = 5;
/// The longest delay, or head start, that can be meant, in minutes: a week.
const DELAY_MIN_MAX: i64 = 7 * 24 * 60;
/// The 90th percentile of a full window is the 45th smallest delay (nearest rank).
const RANK: usize = 45;
/// How much higher the limit for the 90th percentile begins than that for the mean.
const HIGH_FOR_MEAN: i64 = 3;
/// The kinds of objects, and the limits for the mean that their prototypes begin with, in minutes.
const KINDS: [(&str, i64); 3] = [("carrier", 15), ("airport", 20), ("aircraft", 30)];

/// Takes flights in, and tells those whom they concern.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Board {
    /// Flights taken in.
    flights: u64,
    /// Those of them that arrived where they should.
    arrivals: u64,
    /// Alerts that they raised.
    alerts: u64,
}

#[methods]
impl Board {
    /// Takes in a flight; returns the names of the objects that it raised an alert for.
    ///
    /// `tailnum` is left out if the aircraft is not known. `arr_delay` is how many minutes later than planned it arrived,
    /// and left out if it did not arrive there. `scheduled` is when it should have left.
    #[allow(clippy::too_many_arguments, reason = "an event has as many parts, and callers name them")]
    pub fn record(
        &mut self,
        cx: &mut Context,
        carrier: &str,
        flight: i64,
        tailnum: Option<&str>,
        origin: &str,
        dest: &str,
        arr_delay: Option<i64>,
        scheduled: &str,
    ) -> Result<Vec<String>> {
        if arr_delay.is_some_and(|delay| delay.abs() > DELAY_MIN_MAX) {
            return Err(Error::refused("impossible_delay", "an arrival delay is given in minutes, a week at most"));
        }
        self.flights += 1;
        self.arrivals += u64::from(arr_delay.is_some());
        let to = (dest != origin).then_some((1, dest));
        let aircraft = tailnum.map(|tailnum| (2, tailnum));
        let concerned = [Some((0, carrier)), Some((1, origin)), to, aircraft];
        let flight = format!("{carrier} {flight} {scheduled}");
        let mut raised = Vec::new();
        for (kind, key) in concerned.into_iter().flatten() {
            let name = format!("{}/{key}", KINDS[kind].0);
            let object = match cx.find(&name)? {
                Some(object) => object,
                None => introduce(cx, kind, &name)?,
            };
            if cx.send(object, "record", (arr_delay, &flight))? {
                raised.push(name);
            }
        }
        self.alerts += raised.len() as u64;
        Ok(raised)
    }

    /// What was taken in so far.
    pub fn summary(&self) -> Summary {
        let Board { flights, arrivals, alerts } = *self;
        Summary { flights, arrivals, alerts }
    }
}

/// Derives an object from the prototype of its kind, and names it.
fn introduce(cx: &mut Context, kind: usize, name: &str) -> Result<AnyRef> {
    let (kind, limit_min) = KINDS[kind];
    let prototype_name = format!("prototype/{kind}");
    let prototype = match cx.find(&prototype_name)? {
        Some(prototype) => prototype,
        None => {
            let prototype = cx.create(&Punctuality {
                mean_limit_min: Some(limit_min),
                high_limit_min: Some(high_limit(limit_min)),
                ..Punctuality::default()
            })?;
            cx.name(&prototype_name, prototype)?;
            prototype.cast()
        }
    };
    let object = cx.derive(prototype)?;
    cx.name(name, object)?;
    Ok(object)
}

/// What a board has taken in.
#[data]
pub struct Summary {
    flights: u64,
    arrivals: u64,
    alerts: u64,
}

/// How punctual a carrier, an airport or an aircraft is.
#[behavior(version = 2)]
#[derive(Default)]
pub struct Punctuality {
    /// All flights, those that did not arrive included.
    flights: u64,
    /// Flights that arrived where they should.
    arrivals: u64,
    /// The delays of all arrivals together, in minutes.
    delay_sum_min: i64,
    /// How many arrivals in a row were on time (positive) or late (negative), up to the last one.
    streak: i64,
    /// The delays of the last arrivals in minutes, the oldest first.
    recent_min: Vec<i64>,
    /// The limit of the first version, which went by the mean of the last 50 arrivals. Kept for the way back.
    mean_limit_min: Option<i64>,
    /// There is an alert while the 90th percentile of the last 50 arrivals is above so many minutes. None for no alerts.
    high_limit_min: Option<i64>,
    /// Whether there is an alert now.
    alerting: bool,
    /// How often an alert was raised.
    alerts: u64,
    /// The last alerts, the latest last.
    alert_log: Vec<Alert>,
}

/// An alert that was raised.
#[data]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alert {
    /// The flight that raised it.
    flight: String,
    /// Why, for people.
    reason: String,
}

/// Everything that can be told about punctuality, for programs and people.
#[data]
pub struct Figures {
    flights: u64,
    arrivals: u64,
    delay_sum_min: i64,
    /// To two places; none before the first arrival.
    mean_delay_min: Option<String>,
    streak: i64,
    /// How many arrivals are in the window, and their delays together.
    window: usize,
    window_sum_min: i64,
    /// The 90th percentile of a full window.
    window_high_min: Option<i64>,
    high_limit_min: Option<i64>,
    alerting: bool,
    alerts: u64,
    /// The flight that raised the last alert.
    last_alert: Option<String>,
}

/// The slots of the first version. An object that was derived has only some of them, and keeps to those.
#[data]
#[derive(Default)]
#[serde(default)]
struct PunctualityV1 {
    flights: u64,
    arrivals: u64,
    delay_sum_min: i64,
    streak: i64,
    recent_min: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_limit_min: Option<i64>,
    alerting: bool,
    alerts: u64,
    alert_log: Vec<Alert>,
}

#[methods]
impl Punctuality {
    #[migrate(from = 1)]
    fn from_v1(old: PunctualityV1) -> Result<Self> {
        Ok(Punctuality {
            flights: old.flights,
            arrivals: old.arrivals,
            delay_sum_min: old.delay_sum_min,
            streak: old.streak,
            recent_min: old.recent_min,
            mean_limit_min: old.mean_limit_min,
            high_limit_min: old.mean_limit_min.map(high_limit),
            alerting: old.alerting,
            alerts: old.alerts,
            alert_log: old.alert_log,
        })
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<PunctualityV1> {
        Ok(PunctualityV1 {
            flights: self.flights,
            arrivals: self.arrivals,
            delay_sum_min: self.delay_sum_min,
            streak: self.streak,
            recent_min: self.recent_min.clone(),
            mean_limit_min: self.mean_limit_min,
            alerting: self.alerting,
            alerts: self.alerts,
            alert_log: self.alert_log.clone(),
        })
    }

    /// Takes in a flight by its delay at arrival, in minutes, left out if it did not arrive. Returns whether it raised an alert.
    pub fn record(&mut self, arr_delay: Option<i64>, flight: &str) -> Result<bool> {
        self.flights += 1;
        let Some(delay_min) = arr_delay else { return Ok(false) };
        self.arrivals += 1;
        self.delay_sum_min += delay_min;
        self.streak = match delay_min {
            ..=0 => self.streak.max(0) + 1,
            _ => self.streak.min(0) - 1,
        };
        if self.recent_min.len() == WINDOW {
            self.recent_min.remove(0);
        }
        self.recent_min.push(delay_min);
        let reason = self.reason_for_alert();
        let raised = reason.is_some() && !self.alerting;
        self.alerting = reason.is_some();
        if let Some(reason) = reason.filter(|_| raised) {
            self.alerts += 1;
            if self.alert_log.len() == ALERTS_KEPT {
                self.alert_log.remove(0);
            }
            self.alert_log.push(Alert { flight: flight.to_owned(), reason });
        }
        Ok(raised)
    }

    /// Sets the limit for the 90th percentile of the last 50 arrivals, in minutes; nothing for no alerts. On a prototype it is in
    /// force for all that were derived from it and have no limit of their own.
    pub fn set_limit(&mut self, minutes: Option<i64>) -> Result<()> {
        self.high_limit_min = minutes;
        Ok(())
    }

    /// What is known.
    pub fn figures(&self) -> Figures {
        Figures {
            flights: self.flights,
            arrivals: self.arrivals,
            delay_sum_min: self.delay_sum_min,
            mean_delay_min: mean(self.delay_sum_min, self.arrivals),
            streak: self.streak,
            window: self.recent_min.len(),
            window_sum_min: self.recent_min.iter().sum(),
            window_high_min: self.window_high_min(),
            high_limit_min: self.high_limit_min,
            alerting: self.alerting,
            alerts: self.alerts,
            last_alert: self.alert_log.last().map(|alert| alert.flight.clone()),
        }
    }

    /// The last alerts, the latest last.
    pub fn alert_log(&self) -> Vec<Alert> {
        self.alert_log.clone()
    }
}

impl Punctuality {
    fn window_high_min(&self) -> Option<i64> {
        let mut sorted: [i64; WINDOW] = self.recent_min.as_slice().try_into().ok()?;
        sorted.sort_unstable();
        Some(sorted[RANK - 1])
    }

    /// Why there is an alert now; none without a limit, before the window is full, or if all is well.
    fn reason_for_alert(&self) -> Option<String> {
        let limit_min = self.high_limit_min?;
        let high_min = self.window_high_min().filter(|high_min| *high_min > limit_min)?;
        Some(format!(
            "one in ten of the last {WINDOW} arrivals was {high_min} minutes late or more; the limit is {limit_min}"
        ))
    }
}

/// What the limit for the 90th percentile begins with.
fn high_limit(mean_limit_min: i64) -> i64 {
    mean_limit_min.saturating_mul(HIGH_FOR_MEAN)
}

/// A mean to two places, halves rounded away from zero.
fn mean(sum: i64, count: u64) -> Option<String> {
    let hundredths = (u128::from(sum.unsigned_abs()) * 200 + u128::from(count)).checked_div(2 * u128::from(count))?;
    let sign = if sum < 0 && hundredths > 0 { "-" } else { "" };
    Some(format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100))
}

plugin! { name: "flights", behaviors: [Board, Punctuality] }

#[cfg(test)]
mod tests {
    use super::*;

    fn after(delays: &[i64]) -> Punctuality {
        let mut punctuality = Punctuality { high_limit_min: Some(45), ..Punctuality::default() };
        for delay in delays {
            punctuality.record(Some(*delay), "UA 1 2013-01-01T05:15").unwrap();
        }
        punctuality
    }

    #[test]
    fn six_late_arrivals_of_fifty_raise_an_alert_and_five_do_not() {
        let mut delays = [-10; WINDOW];
        delays[..5].fill(500);
        assert_eq!((after(&delays).window_high_min(), after(&delays).alerts), (Some(-10), 0));
        delays[5] = 46;
        let mut punctuality = after(&delays);
        assert_eq!((punctuality.window_high_min(), punctuality.alerting), (Some(46), true));
        assert!(punctuality.alert_log[0].reason.contains("46 minutes late"), "{:?}", punctuality.alert_log);
        // The first of the late ones leaves the window.
        assert!(!punctuality.record(Some(45), "").unwrap());
        assert!(!punctuality.alerting, "exactly the limit is no alert");
        assert_eq!(after(&delays[..WINDOW - 1]).alerts, 0, "the window is not full");
    }

    #[test]
    fn the_first_version_can_take_the_objects_back() {
        let old = || PunctualityV1 {
            flights: 60,
            arrivals: 55,
            delay_sum_min: -3,
            streak: 2,
            recent_min: vec![1, 2],
            mean_limit_min: Some(20),
            alerting: true,
            alerts: 4,
            alert_log: vec![Alert { flight: "A".to_owned(), reason: "B".to_owned() }],
        };
        let new = Punctuality::from_v1(old()).unwrap();
        assert_eq!((new.high_limit_min, new.mean_limit_min), (Some(60), Some(20)));
        let encode = |slots: &PunctualityV1| theseus_plugin::value::to_vec(slots).unwrap();
        assert_eq!(encode(&new.to_v1().unwrap()), encode(&old()));
    }

    #[test]
    fn what_was_derived_gets_no_limit_of_its_own() {
        let derived = Punctuality::from_v1(PunctualityV1 { flights: 1, ..PunctualityV1::default() }).unwrap();
        assert_eq!(derived.high_limit_min, None);
        let back = theseus_plugin::value::to_vec(&derived.to_v1().unwrap()).unwrap();
        let back: std::collections::BTreeMap<String, Value> = theseus_plugin::value::from_slice(&back).unwrap();
        assert!(!back.contains_key("mean_limit_min") && back.contains_key("flights"), "{back:?}");
    }
}
