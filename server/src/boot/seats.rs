//! What each core is given, and its life.
//!
//! Every core has a front for each shard. A core that has shards of its own also runs their engines, accepts their
//! clients and places them on the cores, and has links to the other members.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use keelson_storage::io::UringDisk;

use super::rejoin::Rejoining;
use super::shards::CoreShards;
use crate::engine::client::EngineClient;
use crate::engine::driver::{self, Leaving, PortRings};
use crate::engine::limits::{INBOUND_RING_SLOTS, OUTBOUND_RING_SLOTS};
use crate::engine::message::{Inbound, Outbound};
use crate::engine::report::Reporter;
use crate::engine::{Engine, EngineError, Shards};
use crate::front::api::{
    Api, ApiConfig, HttpApi, RpcObserver, follow_main, progress_notifier, pump, sweeper,
};
use crate::front::{ArrivalSeat, Front, FrontConfig, HandoverSeat, Listener, handover};
use crate::observe::Registry;
use crate::peer::{PeerConfig, PeerRoutes, Peers};
use crate::runtime::{self, Bell, Core, CoreLink, MonotonicClock, RingReceiver, RingSender, ring};

/// What a core is given when it starts.
pub(super) struct Seat {
    /// By shard.
    fronts: Vec<FrontSeat>,
    engines: Option<EngineSeat>,
}

/// A shard's front on a core.
struct FrontSeat {
    to_engine: RingSender<Inbound>,
    from_engine: RingReceiver<Outbound>,
    /// None on the core that accepts.
    arrivals: Option<ArrivalSeat>,
}

/// What only a core with shards is given; lists are in the order of its engines.
struct EngineSeat {
    shards: Shards<UringDisk>,
    /// Their places among all shards.
    plans: Vec<usize>,
    ports: Vec<Vec<(RingReceiver<Inbound>, RingSender<Outbound>)>>,
    listeners: Vec<Vec<Listener>>,
    handovers: Vec<HandoverSeat>,
    peers: PeerSeat,
    leaving: Leaving,
}

/// What the links to the other members begin with.
pub(super) struct PeerSeat {
    pub(super) config: PeerConfig,
    pub(super) listeners: Vec<TcpListener>,
    routes: PeerRoutes,
}

/// What the cores share with the rest of the process.
#[derive(Clone)]
pub(super) struct Shared {
    /// By shard.
    pub(super) registries: Vec<Arc<Registry>>,
    /// Set by the first engine that fails.
    pub(super) failure: Arc<OnceLock<EngineError>>,
    /// Rung for a checkpoint of every shard.
    pub(super) checkpoint: Arc<Bell>,
    /// Which shards of a member that begins anew are whole again.
    pub(super) rejoining: Arc<Rejoining>,
}

/// What every core needs to know.
#[derive(Clone)]
pub(super) struct CorePlan {
    pub(super) api: ApiConfig,
    pub(super) front: FrontConfig,
    pub(super) drain_limit: Duration,
    pub(super) slow_apply: Duration,
    pub(super) shared: Shared,
}

/// The seats of all cores. `listeners` are those of each shard, `peers` makes the beginning of the links of a core.
pub(super) fn make_seats(
    links: &[CoreLink],
    cores: Vec<CoreShards>,
    mut listeners: Vec<Vec<Listener>>,
    peers: impl Fn(usize) -> PeerConfig,
    peer_listeners: Vec<TcpListener>,
) -> Vec<Seat> {
    let engine_cores: Vec<usize> = cores.iter().map(|core| core.core).collect();
    let mut routes = PeerRoutes::between(links, &engine_cores).into_iter();
    let mut leaving = Leaving::of_cores(cores.len()).into_iter();
    let mut peer_listeners = Some(peer_listeners);
    let mut fronts: Vec<Vec<Option<FrontSeat>>> = links
        .iter()
        .map(|_| listeners.iter().map(|_| None).collect())
        .collect();
    let mut engines: Vec<Option<EngineSeat>> = links.iter().map(|_| None).collect();
    for CoreShards {
        core,
        plans,
        shards,
    } in cores
    {
        let mut seat = EngineSeat {
            shards,
            ports: Vec::new(),
            listeners: Vec::new(),
            handovers: Vec::new(),
            peers: PeerSeat {
                config: peers(core),
                listeners: peer_listeners.take().unwrap_or_default(),
                routes: routes.next().expect("every core with engines has its ends"),
            },
            leaving: leaving.next().expect("and looks whether it is needed"),
            plans,
        };
        for plan in &seat.plans {
            let (ports, handover) = connect(links, core, *plan, &mut fronts);
            seat.ports.push(ports);
            seat.handovers.push(handover);
            seat.listeners.push(std::mem::take(&mut listeners[*plan]));
        }
        engines[core] = Some(seat);
    }
    let seats = fronts.into_iter().zip(engines).map(|(fronts, engines)| {
        let fronts = fronts.into_iter();
        Seat {
            fronts: fronts
                .map(|front| front.expect("every shard has an engine"))
                .collect(),
            engines,
        }
    });
    seats.collect()
}

type PortEnds = Vec<(RingReceiver<Inbound>, RingSender<Outbound>)>;

/// Makes the rings between the engine of a shard on `core` and its fronts on all cores.
fn connect(
    links: &[CoreLink],
    core: usize,
    plan: usize,
    fronts: &mut [Vec<Option<FrontSeat>>],
) -> (PortEnds, HandoverSeat) {
    let (handover, arrivals) = handover(links, core);
    let mut ports = Vec::with_capacity(links.len());
    for ((link, arrivals), fronts) in links.iter().zip(arrivals).zip(fronts) {
        let (to_engine, inbound) = ring(INBOUND_RING_SLOTS, link, &links[core]);
        let (outbound, from_engine) = ring(OUTBOUND_RING_SLOTS, &links[core], link);
        ports.push((inbound, outbound));
        fronts[plan] = Some(FrontSeat {
            to_engine,
            from_engine,
            arrivals,
        });
    }
    (ports, handover)
}

type ShardFront = Front<Api, HttpApi>;

/// The life of a core: serve until told to stop, drain, and let the engines finish what is proposed.
pub(super) async fn run_core(plan: CorePlan, core: Core, seat: Seat) {
    let mut fronts: Vec<ShardFront> = Vec::with_capacity(seat.fronts.len());
    let mut apis: Vec<Rc<Api>> = Vec::with_capacity(seat.fronts.len());
    for (front, registry) in seat.fronts.into_iter().zip(&plan.shared.registries) {
        let main = apis.first().cloned();
        let (front, api) = start_front(&plan, &core, front, registry, main);
        fronts.push(front);
        apis.push(api);
    }
    let Some(engines) = seat.engines else {
        core.stopping().wait().await;
        drain(&fronts, plan.drain_limit).await;
        return;
    };
    let own: Vec<Rc<Api>> = engines
        .plans
        .iter()
        .map(|plan| apis[*plan].clone())
        .collect();
    own.iter()
        .for_each(|api| runtime::spawn(follow_main(api.clone())));
    let watched = plan.shared.checkpoint.watch(move || {
        own.iter()
            .for_each(|api| runtime::spawn(api.clone().request_checkpoint()));
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "SIGUSR1 will not make checkpoints");
    }
    let accepting = engines.listeners.into_iter().zip(engines.handovers);
    for (plan, (listeners, handover)) in engines.plans.iter().zip(accepting) {
        fronts[*plan].accept(listeners, handover);
    }
    let attach = |ports: PortEnds| {
        let ports = ports.into_iter().map(|(inbox, outbox)| PortRings {
            inbox: inbox.attach(),
            outbox: outbox.attach(),
        });
        ports.collect()
    };
    let run = EngineRun {
        shards: engines.shards,
        plans: engines.plans,
        ports: engines.ports.into_iter().map(attach).collect(),
        peers: engines.peers,
        leaving: engines.leaving,
        drained: runtime::Latch::new(),
        ended: runtime::Latch::new(),
    };
    let (drained, ended) = (run.drained.clone(), run.ended.clone());
    let drain_limit = plan.drain_limit;
    runtime::spawn(run.run(core.clone(), plan));
    futures_lite::future::or(core.stopping().wait(), ended.wait()).await;
    if !ended.is_set() {
        drain(&fronts, drain_limit).await;
        drained.set();
        ended.wait().await;
    }
}

/// Starts a shard's front on this core.
fn start_front(
    plan: &CorePlan,
    core: &Core,
    seat: FrontSeat,
    registry: &Arc<Registry>,
    main: Option<Rc<Api>>,
) -> (ShardFront, Rc<Api>) {
    let client = EngineClient::new(seat.to_engine.attach());
    let api = Api::new(
        plan.api.clone(),
        core.clone(),
        client,
        registry.clone(),
        main,
    );
    let front = Front::new(
        plan.front.clone(),
        api.clone(),
        Rc::new(HttpApi(api.clone())),
        Rc::new(RpcObserver(registry.core(core.index()).clone())),
    );
    runtime::spawn(pump(api.clone(), seat.from_engine.attach()));
    runtime::spawn(sweeper(api.clone()));
    runtime::spawn(progress_notifier(api.clone()));
    if let Some(arrivals) = seat.arrivals {
        front.receive(arrivals);
    }
    (front, api)
}

async fn drain(fronts: &[ShardFront], limit: Duration) {
    join_all(fronts.iter().map(|front| front.drain(limit))).await;
}

/// The task of a core's engines.
struct EngineRun {
    shards: Shards<UringDisk>,
    plans: Vec<usize>,
    ports: Vec<Vec<PortRings>>,
    peers: PeerSeat,
    leaving: Leaving,
    /// Set when the fronts have drained: the engines finish what is proposed and end.
    drained: runtime::Latch,
    /// Set when the engines have ended.
    ended: runtime::Latch,
}

impl EngineRun {
    /// Runs the engines to their end. If one fails, the process must not go on as if it could acknowledge:
    /// the failure is handed to `serve` and all cores are stopped.
    async fn run(self, core: Core, plan: CorePlan) {
        let reporters = self.plans.iter().map(|place| {
            let metrics = plan.shared.registries[*place].core(core.index()).clone();
            (Reporter::new(plan.slow_apply), metrics)
        });
        let mut reporters: Vec<_> = reporters.collect();
        let observe = |place: usize, engine: &mut Engine<UringDisk>| {
            let (reporter, metrics) = &mut reporters[place];
            reporter.report(engine, metrics);
            if engine.take_rejoined() {
                plan.shared.rejoining.on_whole(self.plans[place]);
            }
        };
        let PeerSeat {
            config,
            listeners,
            routes,
        } = self.peers;
        let ended = match Peers::start_routed(config, listeners, routes) {
            Ok(peers) => {
                let (shards, ports) = (self.shards, self.ports);
                let outside = (peers, self.leaving);
                driver::run(
                    shards,
                    ports,
                    outside,
                    MonotonicClock,
                    self.drained,
                    observe,
                )
                .await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::error!(%error, "an engine failed; the process ends");
            // That of another core may have been the first.
            let _ = plan.shared.failure.set(error);
            core.stop_all();
        }
        self.ended.set();
    }
}
