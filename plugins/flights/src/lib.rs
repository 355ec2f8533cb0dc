//! The punctuality of carriers, airports and aircraft, flight by flight.
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
/// The kinds of objects, and the limits that their prototypes begin with, in minutes.
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
            let prototype = cx.create(&Punctuality { mean_limit_min: Some(limit_min), ..Punctuality::default() })?;
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
#[behavior(version = 1)]
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
    /// There is an alert while the mean delay of the last 50 arrivals is above so many minutes. None for no alerts.
    mean_limit_min: Option<i64>,
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
    mean_limit_min: Option<i64>,
    alerting: bool,
    alerts: u64,
    /// The flight that raised the last alert.
    last_alert: Option<String>,
}

#[methods]
impl Punctuality {
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

    /// Sets the limit for the mean delay of the last 50 arrivals, in minutes; nothing for no alerts. On a prototype it is in
    /// force for all that were derived from it and have no limit of their own.
    pub fn set_limit(&mut self, minutes: Option<i64>) -> Result<()> {
        self.mean_limit_min = minutes;
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
            mean_limit_min: self.mean_limit_min,
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
    /// Why there is an alert now; none without a limit, before the window is full, or if all is well.
    fn reason_for_alert(&self) -> Option<String> {
        let limit_min = self.mean_limit_min.filter(|_| self.recent_min.len() == WINDOW)?;
        let sum_min: i64 = self.recent_min.iter().sum();
        // Compared without dividing, so that nothing is rounded.
        let over = sum_min > limit_min.saturating_mul(WINDOW as i64);
        over.then(|| {
            let mean = mean(sum_min, WINDOW as u64).expect("the window is full");
            format!("the last {WINDOW} arrivals were {mean} minutes late in the mean, and the limit is {limit_min}")
        })
    }
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
        let mut punctuality = Punctuality { mean_limit_min: Some(15), ..Punctuality::default() };
        for delay in delays {
            punctuality.record(Some(*delay), "UA 1 2013-01-01T05:15").unwrap();
        }
        punctuality
    }

    #[test]
    fn means_are_rounded_away_from_zero() {
        let text = |sum, count| mean(sum, count).unwrap();
        assert_eq!(mean(5, 0), None);
        assert_eq!([text(1, 8), text(-1, 8), text(-1, 1_000), text(7, 1)], ["0.13", "-0.13", "0.00", "7.00"]);
    }

    #[test]
    fn streaks_change_sides() {
        assert_eq!(after(&[0, -3, -1]).streak, 3);
        assert_eq!(after(&[0, -3, 1, 2]).streak, -2);
        let mut punctuality = after(&[4, 0]);
        punctuality.record(None, "").unwrap();
        assert_eq!((punctuality.streak, punctuality.flights, punctuality.arrivals), (1, 3, 2));
    }

    #[test]
    fn an_alert_is_raised_once_and_clears() {
        // A mean of exactly the limit is no alert.
        let mut punctuality = after(&[15; WINDOW]);
        assert_eq!((punctuality.alerting, punctuality.alerts), (false, 0));
        assert!(punctuality.record(Some(16), "A").unwrap());
        assert!(!punctuality.record(Some(16), "B").unwrap());
        assert_eq!(punctuality.alert_log[0].flight, "A");
        assert!(punctuality.alert_log[0].reason.contains("15.02 minutes late"), "{:?}", punctuality.alert_log);
        punctuality.record(Some(-100), "C").unwrap();
        assert!(!punctuality.alerting);
        assert!(punctuality.record(Some(1_000), "D").unwrap());
        assert_eq!(punctuality.figures().last_alert.as_deref(), Some("D"));
    }

    #[test]
    fn nothing_is_alerted_before_the_window_is_full_or_without_a_limit() {
        assert!(!after(&[500; WINDOW - 1]).alerting);
        assert!(after(&[500; WINDOW]).alerting);
        let mut unlimited = Punctuality { mean_limit_min: None, ..after(&[500; WINDOW - 1]) };
        assert!(!unlimited.record(Some(500), "").unwrap());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut punctuality = after(&[0; WINDOW]);
        for _ in 0..20 {
            punctuality.record(Some(5_000), "late").unwrap();
            punctuality.record(Some(-5_000), "early").unwrap();
        }
        assert_eq!((punctuality.recent_min.len(), punctuality.alert_log.len()), (WINDOW, ALERTS_KEPT));
        assert_eq!(punctuality.alerts, 20);
    }
}
