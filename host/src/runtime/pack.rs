//! Packing the history: chooses how far, has the base made, has it put in force, and tells what is gone by that.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    action::{ActionError, Answer, At, PackView, PackWish, codes},
    jobs::GoOn,
    views,
};
use crate::{
    exec::{Doing, Engine, Refusal},
    identity::{PackError, PackPlan, PackUntil, Tid},
    swap::ask,
};

/// How long the object table may take to reach the transaction up to which the history is packed.
const TABLE_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const TABLE_LOOK: Duration = Duration::from_millis(5);

/// Packs the history, or tells what that would do.
pub(super) fn pack(engine: &Engine, wish: PackWish, dry_run: bool, go_on: &GoOn) -> Result<Answer, ActionError> {
    let started = Instant::now();
    let identity = engine.identity();
    let until = match wish {
        PackWish::Before(At::Tid(tid)) => {
            let newest = identity.head().tid;
            if tid == 0 || tid > newest.0 {
                let message = format!("there is no transaction {tid}: the history has 1 to {newest}");
                return Err(views::error(codes::NO_SUCH_TRANSACTION, message));
            }
            PackUntil::Tid(Tid(tid))
        }
        PackWish::Before(At::Time { us }) => PackUntil::TimeUs(us),
        PackWish::KeepDays(days) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64);
            PackUntil::TimeUs(now.saturating_sub(days.saturating_mul(86_400_000_000)))
        }
    };
    let plan = identity.plan_pack(until).map_err(views::storage)?;
    let mut view = PackView {
        dry_run,
        packed: identity.packed().tid.0,
        first: 0,
        transactions: 0,
        times_us: None,
        bytes_max: 0,
        objects: 0,
        base: None,
        tid: None,
        at: views::head(identity.head()),
        elapsed_ms: 0,
    };
    if let Some(plan) = plan {
        view = PackView {
            packed: plan.head.tid.0,
            first: plan.first.0,
            transactions: plan.transactions(),
            times_us: Some(plan.times_us),
            bytes_max: plan.bytes,
            ..view
        };
        identity.room_for_base(&plan).map_err(failed)?;
        if !dry_run {
            carry_out(engine, &plan, go_on, &mut view)?;
        }
    }
    view.elapsed_ms = started.elapsed().as_millis() as u64;
    Ok(Answer::Packed(view))
}

fn carry_out(engine: &Engine, plan: &PackPlan, go_on: &GoOn, view: &mut PackView) -> Result<(), ActionError> {
    let identity = engine.identity();
    bring_table_to(engine, plan.head.tid, go_on)?;
    let base = identity.build_base(plan, &|| go_on.ask()).map_err(failed)?;
    view.objects = base.objects();
    let (mark, note) = (base.mark(), base.mark().note(plan.transactions(), base.objects()));
    let done = ask(engine, Doing::Pack { base, note });
    // Whatever came of it, one of the bases is of no use any more; but if the storage failed nobody knows which before the next start.
    if !matches!(done, Err(Refusal::StorageFailed { .. }))
        && let Err(error) = identity.remove_other_bases()
    {
        log::warn!("a base that is not in force stays until the next start: {error}");
    }
    let done = done.map_err(|refusal| views::refusal(&refusal))?;
    (view.base, view.tid, view.at) = (Some(mark.digest.to_string()), done.tid.map(|tid| tid.0), views::head(done.head));
    log::info!(
        "transactions {} to {} have been packed away: {} objects in the base",
        plan.first,
        plan.head.tid,
        view.objects
    );
    Ok(())
}

/// Waits until the object table has what goes into the base.
fn bring_table_to(engine: &Engine, tid: Tid, go_on: &GoOn) -> Result<(), ActionError> {
    let deadline = Instant::now() + TABLE_WAIT;
    while engine.identity().reached() < tid {
        ask(engine, Doing::Checkpoint).map_err(|refusal| views::refusal(&refusal))?;
        if !go_on.ask() {
            return Err(failed(PackError::Interrupted));
        }
        if Instant::now() > deadline {
            let message = format!("the object table does not come to transaction {tid}: pack less, or later");
            return Err(views::error(codes::OVERLOADED, message));
        }
        thread::sleep(TABLE_LOOK);
    }
    Ok(())
}

fn failed(failure: PackError) -> ActionError {
    match failure {
        PackError::NoRoom { .. } => views::error(codes::STORAGE_FULL, failure.to_string()),
        PackError::Interrupted => views::refusal(&Refusal::Stopping),
        PackError::Storage(error) if error.is_full() => views::error(codes::STORAGE_FULL, error.to_string()),
        PackError::Storage(error) => views::storage(error),
    }
}
