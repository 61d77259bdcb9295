//! Who may open a link, and what to change when it may not.

use keelson_consensus::replicate::{
    FrameHeader, Hello, Refusal, VERSION_MAX, VERSION_MIN, Welcome, negotiate,
};
use keelson_storage::ids::{ClusterId, CoreId, MemberId};

/// What this member says about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) me: MemberId,
    pub(super) cluster: ClusterId,
    pub(super) core: CoreId,
    /// Drawn when the member started.
    pub(super) start: u64,
}

const VERSIONS: (u16, u16) = (VERSION_MIN, VERSION_MAX);

impl Identity {
    /// What is said to a member that is dialled.
    pub(super) fn hello(&self, to: MemberId) -> Hello {
        Hello {
            cluster: self.cluster,
            from: self.me,
            to,
            versions: VERSIONS,
            core: self.core,
            start: self.start,
        }
    }

    /// The answer to a hello; `is_member` is about the dialler.
    pub(super) fn answer(&self, hello: &Hello, is_member: bool) -> Welcome {
        Welcome {
            cluster: self.cluster,
            from: self.me,
            to: hello.from,
            answer: self.judge(hello, is_member),
            start: self.start,
        }
    }

    fn judge(&self, hello: &Hello, is_member: bool) -> Result<u16, Refusal> {
        if hello.cluster != self.cluster {
            return Err(Refusal::Cluster);
        }
        if hello.from == self.me {
            return Err(Refusal::SameMember);
        }
        if hello.to != self.me {
            return Err(Refusal::OtherMember);
        }
        if !is_member {
            return Err(Refusal::NotAMember);
        }
        let version = negotiate(VERSIONS, hello.versions).ok_or(Refusal::Version)?;
        if hello.core != self.core {
            return Err(Refusal::Core);
        }
        Ok(version)
    }

    /// What the other side's answer to a hello to `to` means: the version to talk in.
    pub(super) fn accept(&self, welcome: &Welcome, to: MemberId) -> Result<u16, Refusal> {
        let version = welcome.answer?;
        if welcome.cluster != self.cluster {
            return Err(Refusal::Cluster);
        }
        if welcome.from != to || welcome.to != self.me {
            return Err(Refusal::OtherMember);
        }
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(Refusal::Version);
        }
        Ok(version)
    }

    /// What the frames say that go from this member to `to`; the last number is 0.
    pub(super) fn header_to(&self, to: MemberId, version: u16) -> FrameHeader {
        FrameHeader {
            version,
            cluster: self.cluster,
            from: self.me,
            to,
            sequence: 0,
            taken: 0,
        }
    }

    /// What the frames say that come from `from`.
    pub(super) fn header_from(&self, from: MemberId, version: u16) -> FrameHeader {
        FrameHeader {
            from,
            to: self.me,
            ..self.header_to(self.me, version)
        }
    }
}

/// What an operator can do about a refusal; `is_itself` when this very process answered.
pub(super) fn advice(refusal: Refusal, is_itself: bool) -> &'static str {
    match refusal {
        Refusal::Cluster => {
            "it belongs to another cluster: give both the same --initial-cluster and \
             --initial-cluster-token, or remove the data directory of the one that is wrong here"
        }
        Refusal::NotAMember => {
            "it does not count this member to its cluster: if this member was removed, stop it and remove its data \
             directory; if it is new, add it with `etcdctl member add` first"
        }
        Refusal::OtherMember => {
            "another member answers at this URL: correct the peer URLs with `etcdctl member update`"
        }
        Refusal::Version => {
            "the two versions of Keelson have no protocol in common: upgrade the older one, a minor version at a time"
        }
        Refusal::SameMember if is_itself => {
            "this member answers itself: its peer URL is listed for another member; correct it with \
             `etcdctl member update`"
        }
        Refusal::SameMember => {
            "it has the same member id: two processes run from copies of one data directory; stop one of them"
        }
        Refusal::Core => {
            "it places its shards on other cores: give all members the same cores for their shards"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Identity = Identity {
        me: MemberId(1),
        cluster: ClusterId(9),
        core: CoreId(0),
        start: 5,
    };

    #[test]
    fn only_members_of_this_cluster_that_mean_this_member_are_welcome() {
        let friend = Identity {
            me: MemberId(2),
            start: 6,
            ..OWN
        };
        let hello = friend.hello(OWN.me);
        let welcome = OWN.answer(&hello, true);
        assert_eq!(welcome.answer, Ok(VERSION_MAX));
        assert_eq!(friend.accept(&welcome, OWN.me), Ok(VERSION_MAX));
        for (hello, is_member, refusal) in [
            (hello, false, Refusal::NotAMember),
            (
                Hello {
                    cluster: ClusterId(8),
                    ..hello
                },
                true,
                Refusal::Cluster,
            ),
            (friend.hello(MemberId(3)), true, Refusal::OtherMember),
            (OWN.hello(MemberId(3)), true, Refusal::SameMember),
            (
                Hello {
                    versions: (VERSION_MAX + 1, VERSION_MAX + 2),
                    ..hello
                },
                true,
                Refusal::Version,
            ),
            (
                Hello {
                    core: CoreId(1),
                    ..hello
                },
                true,
                Refusal::Core,
            ),
        ] {
            let welcome = OWN.answer(&hello, is_member);
            assert_eq!(welcome.answer, Err(refusal));
            assert_eq!(friend.accept(&welcome, OWN.me), Err(refusal));
        }
    }

    #[test]
    fn a_welcome_from_somebody_else_opens_nothing() {
        let welcome = OWN.answer(
            &Identity {
                me: MemberId(2),
                ..OWN
            }
            .hello(OWN.me),
            true,
        );
        let dialler = Identity {
            me: MemberId(2),
            ..OWN
        };
        assert_eq!(
            dialler.accept(&welcome, MemberId(3)),
            Err(Refusal::OtherMember)
        );
        let stranger = Identity {
            cluster: ClusterId(8),
            ..dialler
        };
        assert_eq!(stranger.accept(&welcome, OWN.me), Err(Refusal::Cluster));
    }
}
