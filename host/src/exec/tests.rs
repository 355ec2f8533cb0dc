//! The executor, between what others ask of it at the same time.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use theseus_value::Value;

use super::*;
use crate::{
    exec::messages::MessageState,
    identity::{Committer, Draft, MESSAGE_BEHAVIOR, ObjectRecord, Opened, Place, Writer},
};

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
        Subject::with(&[])
    }

    /// With these objects too.
    fn with(others: &[(ObjectId, Option<Arc<ObjectRecord>>)]) -> Subject {
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
        let created = create(open(), others);
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

    /// Keeps the executor from going on until something is sent.
    fn hold(&self) -> Sender<()> {
        let (go_on, wait) = bounded::<()>(1);
        let look: Look = Box::new(move |_, _| wait.recv().unwrap());
        self.engine.command(Command { doing: Doing::Look { look }, request_id: None, reply: Box::new(|_| {}) });
        go_on
    }

    /// Asks for something; the answer comes.
    fn begin(&self, doing: Doing) -> Receiver<Result<Done, Refusal>> {
        let (sender, receiver) = bounded(1);
        let reply: Reply = Box::new(move |done| sender.send(done).unwrap());
        self.engine.command(Command { doing, request_id: None, reply });
        receiver
    }

    fn ask(&self, doing: Doing) -> Result<Done, Refusal> {
        self.begin(doing).recv().unwrap()
    }
}

fn create(Opened { identity, resume }: Opened, others: &[(ObjectId, Option<Arc<ObjectRecord>>)]) -> Tid {
    let slots = [0xa0].as_slice().into();
    let record = ObjectRecord { behavior: "a.B".into(), schema: 1, parents: [].into(), slots };
    let writes = [&[(OBJECT, Some(Arc::new(record)))], others].concat();
    let mut writer = Writer::new(identity.clone(), &resume);
    let draft = Draft {
        request_id: None,
        target: None,
        method: CREATE,
        arguments: &[],
        time_us: 1,
        seed: 0,
        outcome: &Outcome::Done([].into()),
        writes: &writes,
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
    let go_on = subject.hold();
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
    // In one batch, so that the one is not durable yet when the other is executed.
    let go_on = subject.hold();
    let posted = subject.begin(Doing::Post(posting));
    let undone = subject.begin(Doing::Undo { tids: tids.clone(), plan: plan.clone() });
    go_on.send(()).unwrap();
    posted.recv().unwrap().unwrap();
    let is_refused =
        |undone| matches!(undone, Err(Refusal::NotUndone(UndoRefusal::NeededSince { object: OBJECT, .. })));
    assert!(is_refused(undone.recv().unwrap()));
    assert!(is_refused(subject.ask(Doing::Undo { tids: tids.clone(), plan })));
    // As a plan made now says.
    let plan = plan_undo(&mut subject.reader(), &tids);
    assert!(is_refused(subject.ask(Doing::Undo { tids, plan })));
    subject.engine.stop(vec![0xa0]).unwrap();
}

#[test]
fn messages_that_cannot_be_read_keep_no_other_from_being_delivered() {
    let message = |id: u64, slots: &[(&str, Value)]| {
        let slots = Value::Map(slots.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let (behavior, slots) = (MESSAGE_BEHAVIOR.into(), slots.encode().into());
        (ObjectId(id), Some(Arc::new(ObjectRecord { behavior, schema: 1, parents: [].into(), slots })))
    };
    // More than the scheduler looks at at once, before one that is due after them.
    let mut messages: Vec<_> = (2..102).map(|id| message(id, &[("due_us", 1.into())])).collect();
    let (method, target) = (Value::Text("m".to_owned()), Value::Ref(OBJECT));
    messages
        .push(message(102, &[("due_us", 2.into()), ("posted_us", 1.into()), ("method", method), ("target", target)]));
    let subject = Subject::with(&messages);
    let mut reader = subject.reader();
    let mut is_set_aside = || {
        let head = reader.identity().head().tid;
        let last = reader.snapshot(ObjectId(102), head).unwrap().unwrap();
        let message = Message::read(&last.record.unwrap()).unwrap().unwrap();
        matches!(message.state, MessageState::SetAside(_))
    };
    // Its receiver understands nothing.
    let until = Instant::now() + Duration::from_secs(30);
    while !is_set_aside() {
        assert!(Instant::now() < until, "it is not delivered");
        std::thread::sleep(Duration::from_millis(5));
    }
    subject.engine.stop(vec![0xa0]).unwrap();
}
