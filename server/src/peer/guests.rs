//! Members that this one does not know yet.
//!
//! A member that was away while others came and went knows an old list of members. If a newer member leads, it is the
//! only one who can bring the list up to date, and it would be refused. So whoever is refused for not being on the
//! list is looked up: the members on the list are asked for theirs. One that they know becomes a guest and has links
//! like a member, until the list has caught up. One that was on this member's own list and left never does.
//!
//! A new member begins with the list that others told it, and then reads the log from its beginning: the members of today
//! fall off its list when the founders come onto it, and come back one after the other. They are guests meanwhile, or
//! nobody could bring it any further.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use keelson_consensus::limits::MEMBERS_MAX;
use keelson_storage::ids::{ClusterId, MemberId};
use keelson_storage::state::Member;

use super::fetch::fetch_members;
use super::limits::{FORMER_COUNT_MAX, OPENING_TIMEOUT};
use super::link::hex;
use super::peers::Peers;
use crate::runtime::{monotonic_ms, spawn, spawn_blocking};

/// Who is, and who cannot become, a guest.
#[derive(Default)]
pub(super) struct Guests {
    guests: RefCell<BTreeSet<MemberId>>,
    /// Those that others told of, and that the list has not caught up with.
    told: RefCell<BTreeSet<MemberId>>,
    /// Those that left while this process ran.
    former: RefCell<BTreeSet<MemberId>>,
    is_looking: Cell<bool>,
    look_again_at_ms: Cell<u64>,
}

impl Guests {
    pub(super) fn contains(&self, member: MemberId) -> bool {
        self.guests.borrow().contains(&member)
    }

    /// A list that is about to count comes from others, not from the log.
    pub(super) fn on_told(&self, me: MemberId, members: &BTreeMap<MemberId, Member>) {
        let others = members.keys().filter(|id| **id != me);
        self.told.borrow_mut().extend(others);
    }

    /// The list changed: guests that are on it are members, and those that left are no guests any more. Those that were
    /// told of leave the first time because the list goes back to the founders.
    pub(super) fn on_members(
        &self,
        old: &BTreeMap<MemberId, Member>,
        new: &BTreeMap<MemberId, Member>,
    ) {
        let mut told = self.told.borrow_mut();
        let mut former = self.former.borrow_mut();
        let mut guests = self.guests.borrow_mut();
        for id in old.keys().filter(|id| !new.contains_key(id)) {
            match told.remove(id) {
                true => guests.insert(*id),
                false => former.insert(*id),
            };
        }
        if !old.is_empty() && told.iter().all(|id| new.contains_key(id)) {
            told.clear();
        }
        former.retain(|id| !new.contains_key(id));
        while former.len() > FORMER_COUNT_MAX {
            former.pop_first();
        }
        guests.retain(|id| !new.contains_key(id) && !former.contains(id));
    }

    fn may_look_for(&self, member: MemberId) -> bool {
        !self.former.borrow().contains(&member)
            && self.guests.borrow().len() < MEMBERS_MAX
            && !self.is_looking.get()
            && monotonic_ms() >= self.look_again_at_ms.get()
    }
}

/// Asks the members, in the background, whether they know `stranger`. One question at a time, and not too often:
/// whoever is refused comes again.
pub(super) fn look_up(peers: &Peers, stranger: MemberId) {
    let own = &peers.state().guests;
    let urls = peers.other_urls();
    if urls.is_empty() || !own.may_look_for(stranger) {
        return;
    }
    own.is_looking.set(true);
    let cluster = peers.identity().cluster;
    let peers = peers.clone();
    spawn(async move {
        let asked = spawn_blocking(move || ask(&urls, cluster, stranger)).await;
        let own = &peers.state().guests;
        own.is_looking.set(false);
        let pause_ms = peers.config().refused_retry.as_millis() as u64;
        own.look_again_at_ms.set(monotonic_ms() + pause_ms);
        match asked {
            Ok(Some(member)) => admit(&peers, &member),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no thread to look up a member"),
        }
    });
}

/// What the first of the members says that knows the stranger.
fn ask(urls: &[String], cluster: ClusterId, stranger: MemberId) -> Option<Member> {
    urls.iter().find_map(|url| {
        let found = fetch_members(std::slice::from_ref(url), OPENING_TIMEOUT).ok()?;
        let mut members = found.members.into_iter();
        let known = members.find(|member| member.id == stranger.0);
        known.filter(|_| found.cluster == cluster)
    })
}

fn admit(peers: &Peers, member: &Member) {
    let state = peers.state();
    let id = MemberId(member.id);
    let left_meanwhile = state.guests.former.borrow().contains(&id);
    if state.stopped.is_set() || left_meanwhile || peers.link(id).is_some() {
        return;
    }
    tracing::info!(member = %hex(id), "a member joined that this one does not know yet; others do");
    state.guests.guests.borrow_mut().insert(id);
    peers.add_link(id).follow(&member.peer_urls);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ids: &[u64]) -> BTreeMap<MemberId, Member> {
        let member = |id: &u64| (MemberId(*id), Member::default());
        ids.iter().map(member).collect()
    }

    #[test]
    fn members_of_today_are_guests_while_a_new_one_reads_of_the_founders() {
        let guests = Guests::default();
        let (told, founders) = (list(&[4, 5, 6]), list(&[1, 2, 3]));
        guests.on_told(MemberId(6), &told);
        guests.on_members(&list(&[]), &told);
        guests.on_members(&told, &founders);
        let is_guest = [4, 5, 6, 1].map(|id| guests.contains(MemberId(id)));
        assert_eq!(is_guest, [true, true, false, false]);
        // 4 takes the place of 1, 5 that of 2.
        guests.on_members(&founders, &list(&[2, 3, 4]));
        guests.on_members(&list(&[2, 3, 4]), &list(&[3, 4, 5]));
        assert!(!guests.contains(MemberId(4)), "it is a member");
        assert!(!guests.may_look_for(MemberId(1)), "it has left for good");
        guests.on_members(&list(&[3, 4, 5]), &list(&[3, 5]));
        assert!(!guests.contains(MemberId(4)), "and so has this one now");
        assert!(!guests.may_look_for(MemberId(4)));
    }

    #[test]
    fn who_leaves_a_list_that_has_caught_up_is_no_guest() {
        let guests = Guests::default();
        let told = list(&[1, 2, 3]);
        guests.on_told(MemberId(3), &told);
        guests.on_members(&list(&[]), &told);
        guests.on_members(&told, &told);
        guests.on_members(&told, &list(&[1, 3]));
        assert!(!guests.contains(MemberId(2)));
        assert!(!guests.may_look_for(MemberId(2)));
    }
}
