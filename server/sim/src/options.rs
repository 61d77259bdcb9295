//! What kind of run a seed stands for: every run has some faults and not others, so that each also meets what it
//! does to the others' absence (swarm testing).

use crate::dice::Dice;
use crate::disk::Accidents;
use crate::wire::Weather;

/// One run's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Founding members: 1, 3 or 5.
    pub members: usize,
    /// Shards over one lane.
    pub shards: usize,
    /// How long faults go on, in microseconds.
    pub fault_us: u64,
    /// Clients of keys, of leases and of watches.
    pub clients: usize,
    /// See `clients`.
    pub lease_clients: usize,
    /// See `clients`.
    pub watchers: usize,
    /// Keys they use.
    pub keys: u64,
    /// The longest pause of a client between two operations, in microseconds.
    pub pause_us: u64,
    /// The network while faults go on.
    pub weather: Weather,
    /// How long the disk takes, at most, in microseconds.
    pub disk_us: u64,
    /// What befalls disks.
    pub accidents: Accidents,
    /// The member, by its place, whose disks lie and rot, and how often they lie. Only ever one, of three or more: the
    /// others hold what it loses.
    pub liar: Option<(usize, Accidents)>,
    /// Whether members do very little at a time.
    pub is_tiny: bool,
    /// Whether a leader answers reads while its lease lasts.
    pub lease_reads: bool,
    /// Thousandths of the time that clocks run apart.
    pub drift_permille: u64,
    /// A tick of the raft group, in microseconds.
    pub tick_us: u64,
    /// Commands between two checkpoints; none without.
    pub checkpoint_commands: Option<u64>,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// Applied entries that stay in memory for members that lag.
    pub log_keep_entries: usize,
    /// Whether an operator changes the membership.
    pub changes_members: bool,
    /// Chances of what happens now and then, in a thousand draws each.
    pub events: Events,
}

/// Weights of what may happen at the next moment of a fault.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "named after what happens")]
pub struct Events {
    pub crash: u64,
    pub crash_all: u64,
    pub cut: u64,
    pub mend: u64,
    pub stuck_disk: u64,
    pub pause: u64,
    pub clock_jump: u64,
    pub transfer: u64,
    pub checkpoint: u64,
    pub stop: u64,
    pub rot: u64,
}

impl Options {
    /// The settings of a seed.
    #[must_use]
    pub fn draw(dice: &mut Dice) -> Self {
        let members = *dice.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let reorders = dice.chance(400);
        let mut options = Self {
            members,
            shards: *dice.pick(&[1, 1, 1, 1, 1, 2, 2, 3]),
            fault_us: dice.between(8, 40) * 1_000_000,
            clients: dice.between(2, 8) as usize,
            lease_clients: dice.below(3) as usize,
            watchers: dice.between(1, 5) as usize,
            keys: dice.between(1, 12),
            pause_us: *dice.pick(&[20_000, 100_000, 400_000]),
            weather: Weather {
                delay_us: dice.between(20, 2_000),
                jitter_us: *dice.pick(&[10, 1_000, 30_000]),
                loss_permille: maybe(dice, 300, 100),
                repeat_permille: maybe(dice, 300, 100),
                reorders,
            },
            disk_us: *dice.pick(&[100, 1_000, 20_000]),
            accidents: Accidents {
                fail: maybe(dice, 200, 2_000),
                ..Accidents::default()
            },
            liar: None,
            is_tiny: dice.chance(400),
            lease_reads: dice.chance(300),
            drift_permille: dice.below(3) * 5,
            tick_us: *dice.pick(&[20_000, 50_000, 100_000]),
            checkpoint_commands: dice.chance(700).then(|| dice.between(10, 200)),
            segment_bytes: *dice.pick(&[64 << 10, 256 << 10]),
            log_keep_entries: *dice.pick(&[4, 100, 50_000]),
            changes_members: dice.chance(350),
            events: Events::default(),
        };
        options.draw_events(dice);
        if members > 1 && dice.chance(250) {
            options.draw_liar(dice);
        }
        options
    }

    fn draw_liar(&mut self, dice: &mut Dice) {
        let often = *dice.pick(&[300, 3_000, 20_000]);
        let accidents = Accidents {
            fail: 0,
            lose: maybe(dice, 500, often),
            misdirect: maybe(dice, 500, often),
            damage: maybe(dice, 500, often),
        };
        self.liar = Some((dice.index(self.members), accidents));
        self.events.rot = maybe(dice, 700, 6);
    }

    fn draw_events(&mut self, dice: &mut Dice) {
        let is_group = self.members > 1;
        let weight = |dice: &mut Dice, share: u64| maybe(dice, share, 10);
        self.events = Events {
            crash: weight(dice, 700),
            crash_all: weight(dice, 200),
            cut: if is_group { weight(dice, 600) } else { 0 },
            mend: 4,
            stuck_disk: weight(dice, 300),
            pause: weight(dice, 200),
            // A lease is good for as long as clocks run about equally fast.
            clock_jump: weight(dice, if self.lease_reads { 0 } else { 200 }),
            transfer: if is_group { weight(dice, 400) } else { 0 },
            checkpoint: weight(dice, 300),
            stop: weight(dice, 300),
            rot: 0,
        };
    }
}

/// Something in a share of the runs, up to a maximum.
fn maybe(dice: &mut Dice, share_permille: u64, max: u64) -> u64 {
    if dice.chance(share_permille) {
        dice.between(1, max)
    } else {
        0
    }
}
