//! The executor, between what others ask of it at the same time.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::identity::{Committer, Draft, ObjectRecord, Opened, Place, Writer};

/// An engine without plugins over an identity of its own, which has one object.
struct Subject {
    engine: Arc<Engine>,
    /// The transaction that made the object.
    created: Tid,
    _folder: TempDir,
}

const OBJECT: ObjectId = ObjectId(1);

impl Subject {
    fn new() -> Subject {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            history: folder.path().join("history"),
            objects: folder.path().join("objects"),
            bases: folder.path().join("base"),
            history_bytes_max: 1 << 30,
            objects_bytes_max: 1 << 30,
            requests: RequestMemory { count_max: 10, since_us: 0 },
        };
        Identity::create(&place).unwrap();
        let open = || Identity::open(&place, false).unwrap();
        let created = create(open());
        let Opened { identity, resume } = open();
        begin(&identity, &resume, Incarnation(1), "theseus.start", &[0xa0], None).unwrap();
        let mut config = config::Config::default();
        config.identity.disk_free_bytes_min = 0;
        let engine = Arc::new(Engine::start(Start {
            identity,
            resume: &resume,
            incarnation: Incarnation(1),
            plugins: Arc::default(),
            config: &config,
            upgrades: Arc::new(|_, _| {}),
        }));
        Subject { engine, created, _folder: folder }
    }

    fn reader(&self) -> Reader {
        Reader::new(self.engine.identity().clone())
    }

    fn ask(&self, doing: Doing) -> Result<Done, Refusal> {
        let (sender, receiver) = bounded(1);
        let reply: Reply = Box::new(move |done| sender.send(done).unwrap());
        self.engine.command(Command { doing, request_id: None, reply });
        receiver.recv().unwrap()
    }
}

fn create(Opened { identity, resume }: Opened) -> Tid {
    let slots = [0xa0].as_slice().into();
    let record = ObjectRecord { behavior: "a.B".into(), schema: 1, parents: [].into(), slots };
    let mut writer = Writer::new(identity.clone(), &resume);
    let draft = Draft {
        request_id: None,
        target: None,
        method: CREATE,
        arguments: &[],
        time_us: 1,
        seed: 0,
        outcome: &Outcome::Done([].into()),
        writes: &[(OBJECT, Some(Arc::new(record)))],
        names: &[],
    };
    let created = writer.record(&draft).unwrap();
    let generations: Arc<[_]> = [].into();
    Committer::new(identity, Incarnation(1)).append(writer.close_batch(), &generations, 1).unwrap();
    created
}

#[test]
fn a_stop_ends_however_many_commands_came_behind_it() {
    let subject = Subject::new();
    let engine = &subject.engine;
    let (go_on, wait) = bounded::<()>(1);
    let look: Look = Box::new(move |_, _| wait.recv().unwrap());
    engine.command(Command { doing: Doing::Look { look }, request_id: None, reply: Box::new(|_| {}) });
    let (sender, ended) = bounded(1);
    let stopping = engine.clone();
    std::thread::spawn(move || sender.send(stopping.stop(vec![0xa0]).is_ok()).unwrap());
    let waits = || engine.commands.len();
    while waits() == 0 {
        std::thread::yield_now();
    }
    // What the scheduler was about to hand over when the stop came.
    for _ in 0..5 {
        let doing = Doing::Deliver { message: ObjectId(99), due_us: 1 };
        assert!(engine.commands.force(Command { doing, request_id: None, reply: Box::new(|_| {}) }).is_ok());
    }
    go_on.send(()).unwrap();
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(true));
}

#[test]
fn an_undo_sees_what_came_after_its_plan() {
    let subject = Subject::new();
    let tids = vec![subject.created];
    let plan = plan_undo(&mut subject.reader(), &tids);
    assert!(plan.is_ok());
    // A message refers to its receiver.
    let (target, due) = (ObjectName::Id(OBJECT), Due::After(3_600_000_000));
    let posting = Posting { target, method: "m".to_owned(), arguments: Vec::new(), due, every_us: None };
    subject.ask(Doing::Post(posting)).unwrap();
    let undone = subject.ask(Doing::Undo { tids: tids.clone(), plan });
    let is_refused =
        |undone| matches!(undone, Err(Refusal::NotUndone(UndoRefusal::NeededSince { object: OBJECT, .. })));
    assert!(is_refused(undone));
    // As a plan made now says.
    let plan = plan_undo(&mut subject.reader(), &tids);
    assert!(is_refused(subject.ask(Doing::Undo { tids, plan })));
    subject.engine.stop(vec![0xa0]).unwrap();
}
