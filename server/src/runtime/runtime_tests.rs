//! The cores with real executors: rings under load, wake-ups, stopping, and glommio's hang.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use keelson_storage::ids::CoreId;

fn config() -> RuntimeConfig {
    RuntimeConfig {
        pin: false,
        ..RuntimeConfig::default()
    }
}

/// Runs `main` on `count` unpinned cores until all have returned.
fn run<F: Future<Output = ()> + 'static>(
    count: u16,
    config: &RuntimeConfig,
    main: impl Fn(Core) -> F + Clone + Send + 'static,
) {
    let cores: Vec<CoreId> = (0..count).map(CoreId).collect();
    let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect();
    start(&cores, config, seats, move |core, ()| main(core))
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn cores_know_who_they_are_and_can_be_pinned() {
    let available = available_cores().unwrap();
    assert!(!available.is_empty());
    let expected = available.clone();
    let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect::<Vec<()>>();
    let cores = start(
        &available,
        &RuntimeConfig::default(),
        seats,
        move |core, ()| {
            let expected = expected.clone();
            async move {
                assert_eq!(core.id(), expected[core.index()]);
                assert_eq!(core.links().len(), expected.len());
                assert_eq!(this_core().index(), core.index());
                // SAFETY: the call takes no arguments.
                let cpu = unsafe { libc::sched_getcpu() };
                assert_eq!(cpu, i32::from(core.id().0));
            }
        },
    );
    cores.unwrap().join().unwrap();
    assert!(try_this_core().is_none());
}

#[test]
fn a_core_that_does_not_exist_stops_the_start() {
    let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect::<Vec<()>>();
    let outcome = start(
        &[CoreId(4000)],
        &RuntimeConfig::default(),
        seats,
        |_, ()| async {},
    );
    assert!(matches!(
        outcome.err(),
        Some(RuntimeError::Start {
            core: CoreId(4000),
            ..
        })
    ));
    let outcome = start(
        &[],
        &RuntimeConfig::default(),
        |_| Vec::<()>::new(),
        |_, ()| async {},
    );
    assert!(matches!(outcome.err(), Some(RuntimeError::NoCores)));
}

#[test]
fn spawned_tasks_run_after_the_task_that_started_them() {
    run(1, &config(), |_| async {
        let ran = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let ran = ran.clone();
            spawn(async move { ran.set(ran.get() + 1) });
        }
        assert_eq!(ran.get(), 0);
        yield_now().await;
        yield_now().await;
        assert_eq!(ran.get(), 10);
    });
}

/// One side of the ring test: what a core sends and receives.
struct RingSeat {
    sender: Option<RingSender<u64>>,
    receiver: Option<RingReceiver<u64>>,
}

#[test]
fn a_ring_carries_everything_in_order_through_full_and_empty() {
    const COUNT: u64 = 300_000;
    let seats = |links: &[CoreLink]| {
        let (sender, receiver) = ring::<u64>(8, &links[0], &links[1]);
        vec![
            RingSeat {
                sender: Some(sender),
                receiver: None,
            },
            RingSeat {
                sender: None,
                receiver: Some(receiver),
            },
        ]
    };
    let cores = start(
        &[CoreId(0), CoreId(1)],
        &config(),
        seats,
        |_, seat: RingSeat| async {
            if let Some(sender) = seat.sender {
                let mut outbox = sender.attach();
                for value in 0..COUNT {
                    if outbox.vacant_count() == 0 {
                        outbox.vacant().await;
                    }
                    outbox.push(value).unwrap();
                    if value % 3 == 0 {
                        outbox.flush();
                    }
                }
                outbox.flush();
            }
            if let Some(receiver) = seat.receiver {
                let mut inbox = receiver.attach();
                let mut expected = 0;
                while expected < COUNT {
                    inbox.ready().await;
                    while let Some(value) = inbox.pop() {
                        assert_eq!(value, expected);
                        expected += 1;
                    }
                }
            }
        },
    );
    cores.unwrap().join().unwrap();
}

#[test]
fn the_end_of_either_side_is_noticed_by_the_other() {
    let seats = |links: &[CoreLink]| {
        let (to_one, from_zero) = ring::<u64>(4, &links[0], &links[1]);
        let (to_zero, from_one) = ring::<u64>(4, &links[1], &links[0]);
        vec![
            RingSeat {
                sender: Some(to_one),
                receiver: Some(from_one),
            },
            RingSeat {
                sender: Some(to_zero),
                receiver: Some(from_zero),
            },
        ]
    };
    let cores = start(
        &[CoreId(0), CoreId(1)],
        &config(),
        seats,
        |core, seat: RingSeat| async move {
            let (mut outbox, mut inbox) = (
                seat.sender.unwrap().attach(),
                seat.receiver.unwrap().attach(),
            );
            if core.index() == 0 {
                outbox.push(7).unwrap();
                drop(outbox);
                drop(inbox);
                sleep(Duration::from_millis(50)).await;
            } else {
                inbox.ready().await;
                assert_eq!(inbox.pop(), Some(7));
                inbox.ready().await;
                assert!(inbox.is_finished());
                while outbox.push(1).is_ok() {}
                outbox.vacant().await;
                assert!(outbox.is_abandoned());
            }
        },
    );
    cores.unwrap().join().unwrap();
}

#[test]
fn a_ring_within_one_core_needs_no_kernel() {
    let seats = |links: &[CoreLink]| {
        let (sender, receiver) = ring::<u64>(4, &links[0], &links[0]);
        vec![RingSeat {
            sender: Some(sender),
            receiver: Some(receiver),
        }]
    };
    let cores = start(
        &[CoreId(0)],
        &config(),
        seats,
        |core, seat: RingSeat| async move {
            let (mut outbox, mut inbox) = (
                seat.sender.unwrap().attach(),
                seat.receiver.unwrap().attach(),
            );
            let sum = Rc::new(Cell::new(0));
            let total = sum.clone();
            spawn(async move {
                while !inbox.is_finished() {
                    inbox.ready().await;
                    while let Some(value) = inbox.pop() {
                        total.set(total.get() + value);
                    }
                }
            });
            for value in 0..1000 {
                outbox.vacant().await;
                outbox.push(value).unwrap();
            }
            outbox.flush();
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(sum.get(), 499_500);
            assert_eq!(core.stats().wake_count, 0);
        },
    );
    cores.unwrap().join().unwrap();
}

#[test]
fn a_batch_costs_one_wake_and_a_sleeping_core_hears_it() {
    const BATCH_COUNT: usize = 20;
    const BATCH: usize = 64;
    let wakes = Arc::new(AtomicU64::new(u64::MAX));
    let seats = |links: &[CoreLink]| {
        let (sender, receiver) = ring::<usize>(BATCH, &links[0], &links[1]);
        vec![(Some(sender), None), (None, Some(receiver))]
    };
    let out = wakes.clone();
    let main = move |core: Core, (sender, receiver)| {
        let wakes = out.clone();
        async move {
            if let Some(sender) = sender {
                let mut outbox = RingSender::attach(sender);
                for _ in 0..BATCH_COUNT {
                    while outbox.vacant_count() < BATCH {
                        sleep(Duration::from_millis(1)).await;
                    }
                    // Long enough for the other core to fall asleep.
                    sleep(Duration::from_millis(3)).await;
                    (0..BATCH).for_each(|value| outbox.push(value).unwrap());
                    outbox.flush();
                    outbox.flush();
                }
            }
            if let Some(receiver) = receiver {
                let mut inbox = RingReceiver::attach(receiver);
                for value in 0..BATCH_COUNT * BATCH {
                    inbox.ready().await;
                    assert_eq!(inbox.pop(), Some(value % BATCH));
                }
                wakes.store(core.stats().wake_count, Ordering::Relaxed);
            }
        }
    };
    let cores = start(&[CoreId(0), CoreId(1)], &config(), seats, main);
    cores.unwrap().join().unwrap();
    // Fewer when the receiver was still awake; never more than one a batch.
    let wakes = wakes.load(Ordering::Relaxed);
    assert!((1..=BATCH_COUNT as u64).contains(&wakes), "{wakes} wakes");
}

#[test]
fn an_eventfd_of_another_thread_is_seen_and_counts_add_up() {
    run(1, &config(), |_| async {
        let fd = Arc::new(super::eventfd::create().unwrap());
        let (seen, event) = (Rc::new(Cell::new(0)), LocalEvent::new());
        let (total, notify) = (seen.clone(), event.clone());
        let watch = move |count| {
            total.set(total.get() + count);
            notify.notify();
            if total.get() == 100 {
                Watch::Done
            } else {
                Watch::Continue
            }
        };
        watch_eventfd(fd.as_fd(), watch).unwrap();
        let writer = std::thread::spawn(move || {
            for count in 0..100 {
                super::eventfd::signal(&fd);
                if count % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        while seen.get() < 100 {
            event.wait().await;
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_nonblocking_eventfd_is_watched_all_the_same() {
    run(1, &config(), |_| async {
        let fd = super::eventfd::create().unwrap();
        // SAFETY: plain integers in and out.
        unsafe {
            libc::fcntl(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                libc::F_SETFL,
                libc::O_NONBLOCK,
            )
        };
        let event = LocalEvent::new();
        let notify = event.clone();
        watch_eventfd(fd.as_fd(), move |_| {
            notify.notify();
            Watch::Done
        })
        .unwrap();
        sleep(Duration::from_millis(2)).await;
        super::eventfd::signal(&fd);
        event.wait().await;
    });
}

#[test]
fn stop_reaches_every_core() {
    let cores: Vec<CoreId> = (0..2).map(CoreId).collect();
    let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect::<Vec<()>>();
    let main = |core: Core, ()| async move { core.stopping().wait().await };
    let cores = start(&cores, &config(), seats, main).unwrap();
    let stopper = cores.stopper();
    std::thread::sleep(Duration::from_millis(20));
    let started = Instant::now();
    stopper.stop();
    cores.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_core_that_does_not_yield_is_reported_as_stalled() {
    let stalls = Arc::new(AtomicU64::new(0));
    let seen = stalls.clone();
    let config = RuntimeConfig {
        stall_after: Duration::from_millis(200),
        ..config()
    };
    run(1, &config, move |core| {
        let seen = seen.clone();
        async move {
            sleep(Duration::from_millis(20)).await;
            std::thread::sleep(Duration::from_millis(600));
            seen.store(core.stats().stall_count, Ordering::Relaxed);
        }
    });
    assert_eq!(stalls.load(Ordering::Relaxed), 1);
}

#[test]
fn load_is_measured() {
    run(1, &config(), |core| async move {
        sleep(Duration::from_millis(400)).await;
        let idle = core.stats().busy_permille;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            let turn = Instant::now();
            while turn.elapsed() < Duration::from_micros(200) {}
            yield_now().await;
        }
        let busy = core.stats().busy_permille;
        assert!(idle < 300 && busy > 600, "idle {idle}, busy {busy}");
    });
}

#[test]
fn timers_fire_in_order_and_not_early_and_forgotten_ones_never() {
    run(1, &config(), |core| async move {
        let fired = Rc::new(std::cell::RefCell::new(Vec::new()));
        for ms in [30, 10, 20, 10, 0] {
            let fired = fired.clone();
            spawn(async move {
                let started = Instant::now();
                sleep(Duration::from_millis(ms)).await;
                assert!(started.elapsed() >= Duration::from_millis(ms));
                fired.borrow_mut().push(ms);
            });
        }
        let never = timeout(Duration::from_millis(5), sleep(Duration::from_secs(3600))).await;
        assert_eq!(never, Err(Elapsed));
        sleep(Duration::from_millis(60)).await;
        assert_eq!(*fired.borrow(), [0, 10, 10, 20, 30]);
        assert_eq!(core.timers().next_us(), None);
    });
}

#[test]
fn a_core_sleeps_while_it_has_nothing_to_do_and_works_while_it_has() {
    run(1, &config(), |core| async move {
        let before = core.poll_count();
        sleep(Duration::from_millis(300)).await;
        assert_eq!(core.poll_count(), before + 1, "polls while nothing happens");
        // A task that wakes itself keeps the core awake, and others and their timers still have their turns.
        let done = Rc::new(Cell::new(false));
        let busy = done.clone();
        spawn(async move {
            while !busy.get() {
                futures_lite::future::yield_now().await;
            }
        });
        sleep(Duration::from_millis(20)).await;
        done.set(true);
    });
}

#[test]
fn blocking_work_leaves_the_core_to_others() {
    run(1, &config(), |_| async {
        let ticks = Rc::new(Cell::new(0));
        let counted = ticks.clone();
        spawn(async move {
            loop {
                sleep(Duration::from_millis(5)).await;
                counted.set(counted.get() + 1);
            }
        });
        let work = || {
            std::thread::sleep(Duration::from_millis(200));
            42
        };
        assert_eq!(spawn_blocking(work).await.unwrap(), 42);
        assert!(ticks.get() > 2, "{} ticks", ticks.get());
    });
}

#[test]
fn a_feed_waits_for_room_and_ends_with_its_receiver() {
    run(1, &config(), |_| async {
        let (told, heard) = std::sync::mpsc::channel();
        let work = move |feed: &mut Feed<u32>| {
            let mut sent = 0;
            while feed.send(sent).is_ok() {
                sent += 1;
            }
            told.send(sent).unwrap();
        };
        let mut fed = spawn_feeding(3, work).unwrap();
        for wanted in 0..100 {
            assert_eq!(fed.next().await, Some(wanted));
        }
        sleep(Duration::from_millis(20)).await;
        drop(fed);
        let sent = spawn_blocking(move || heard.recv().unwrap()).await.unwrap();
        assert!((100..=103).contains(&sent), "{sent} pieces");

        let work = |feed: &mut Feed<u32>| {
            for piece in 0..10 {
                feed.send(piece).unwrap();
            }
        };
        let mut fed = spawn_feeding(4, work).unwrap();
        let mut count = 0;
        while fed.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 10);
    });
}

/// Longest time between two polls of a task that is always runnable, and the watchdog's wakes, on a core that is
/// preempted so often that some turns end before their first task (fault 1 of the module story).
fn longest_nap(preempt_after: Duration) -> (Duration, u64) {
    let config = RuntimeConfig {
        preempt_after,
        stall_after: Duration::from_secs(30),
        ..config()
    };
    let (result, napped) = std::sync::mpsc::channel();
    let main = move |core: Core| {
        let result = result.clone();
        async move {
            let started = Instant::now();
            let (mut last, mut nap) = (started, Duration::ZERO);
            while started.elapsed() < Duration::from_secs(2) {
                futures_lite::future::yield_now().await;
                nap = nap.max(last.elapsed());
                last = Instant::now();
            }
            result.send((nap, core.stats().poke_count)).unwrap();
        }
    };
    std::thread::spawn(move || run(1, &config, main));
    // A core that got nothing done in this time sleeps for good.
    napped
        .recv_timeout(Duration::from_secs(20))
        .unwrap_or((Duration::MAX, 0))
}

#[test]
fn the_watchdog_bounds_glommios_sleep_on_runnable_tasks() {
    // Which timer hits the gap between arming it and the first task depends on the machine and its load.
    let mut tried = Vec::new();
    for preempt_after in [80, 40, 20, 30, 60].map(Duration::from_micros) {
        let (nap, poke_count) = longest_nap(preempt_after);
        assert!(nap < Duration::from_secs(10), "{preempt_after:?}: asleep");
        // As long as a watchdog's look, so it was not the machine that kept the core from running.
        if poke_count > 0 && nap > Duration::from_millis(40) {
            return;
        }
        tried.push(format!("{preempt_after:?}: {nap:?}, {poke_count} wakes"));
    }
    panic!("no timer shows the hang and the cure: {tried:#?}");
}
