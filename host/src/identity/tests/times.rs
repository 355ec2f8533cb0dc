//! Which transaction was the last at a time.

use super::*;

#[test]
fn the_transaction_of_a_time_is_found_while_commits_go_on() {
    let subject = Subject::new();
    let (mut writer, mut committer) = subject.open.unwrap();
    let identity = writer.identity().clone();
    let stop = AtomicBool::new(false);
    // Found before anybody may see them. Told at the end, so that the other thread ends.
    let mut early = Vec::new();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                identity.tid_at(u64::MAX).unwrap();
                assert!(identity.plan_pack(PackUntil::TimeUs(u64::MAX)).is_ok());
            }
        });
        for _ in 0..2000 {
            let writes = [(ObjectId(1), Some(record(7)))];
            let outcome = &Outcome::Done([].into());
            let (method, arguments) = ("theseus.test", &[]);
            let (request_id, target, time_us, seed, names) = (None, None, 1, 2, &[]);
            let draft = Draft { request_id, target, method, arguments, time_us, seed, outcome, writes: &writes, names };
            writer.record(&draft).unwrap();
            let generations: Arc<[_]> = [].into();
            let seen = identity.head().tid;
            let head = committer.append(writer.close_batch(), &generations, 3).unwrap();
            early.extend(identity.tid_at(u64::MAX).ok().filter(|at| *at != seen));
            committer.publish(head);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(early, []);
}
