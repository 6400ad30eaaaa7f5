//! Who leads: the rules of the Lease, without a clock or a client of its own.
//!
//! Nobody's timestamp is compared with anybody's clock. A Lease has expired when *this process* has
//! watched one and the same version of it for as long as its holder said it would last. Every write
//! carries the resource version that was judged, so of two that want it one wins. And a leader
//! stops calling itself one when two thirds of the duration have passed since it *asked* for the
//! renewal that succeeded last: by then nobody else can have taken over.
//!
//! A Lease that is not there was deleted, for the manifests bring one along, held by nobody. Whoever
//! held it may act for two thirds of its duration without knowing. So a candidate makes another one
//! not for itself but for [`SOMEBODY`], who never renews it: like any Lease whose holder has gone
//! quiet it is taken after a whole duration. And a leader that finds its Lease gone leads no longer:
//! it cannot tell what else was done in its place.
//!
//! A leader that is about to go down with its node gives the Lease back, so that nobody has to wait
//! for it to run out. A candidate that expects to go down *yields*: it takes no Lease that is free,
//! unless nobody else has for a whole duration.

use std::time::Duration;

/// Who holds a Lease that was made in place of one that vanished.
pub const SOMEBODY: &str = "whoever-held-the-deleted-lease";

/// How long a Lease lasts and how often it is renewed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait, once they see no renewal, before they take over.
    pub duration: Duration,
    /// How often the leader renews and others look.
    pub renew: Duration,
}

impl Timing {
    /// How long after a renewal was asked for the leader may act on it.
    pub fn valid_for(&self) -> Duration {
        self.duration * 2 / 3
    }
}

/// A Lease as the API server showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its resource version.
    pub resource_version: String,
    /// Who holds it; none when it was given back.
    pub holder: Option<String>,
    /// For how long its holder holds it after a renewal.
    pub duration: Duration,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// There is none: create it, held by [`SOMEBODY`] for so long.
    Create {
        /// At least as long as the last holder that was seen.
        duration: Duration,
    },
    /// It is free, or its holder has gone quiet: take it, if this is still its version.
    Take {
        /// Precondition.
        resource_version: String,
    },
    /// It is ours: renew it, if this is still its version.
    Renew {
        /// Precondition.
        resource_version: String,
    },
    /// It is somebody else's.
    Wait,
    /// It was ours, and either is no longer or may no longer be: stop acting at once.
    Lost,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    timing: Timing,
    /// The Lease as last seen, and since when it has looked like that.
    seen: Option<(Seen, Duration)>,
    /// For how long the last holder that was seen may have held it.
    held_for: Duration,
    /// Whether there has been a look at all.
    looked: bool,
    /// When the renewal that succeeded last was asked for; none for who does not lead.
    renewed: Option<Duration>,
}

impl Elector {
    /// A candidate. The identity must be this process's alone: a restarted process is another one.
    pub fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            held_for: timing.duration,
            timing,
            seen: None,
            looked: false,
            renewed: None,
        }
    }

    /// The name under which it holds the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The API server showed the Lease, or that there is none.
    pub fn observe(&mut self, seen: Option<Seen>, clock: Duration) {
        self.looked = true;
        if let Some(seen) = &seen {
            self.held_for = seen.duration;
        }
        self.seen = seen.map(|seen| match self.seen.take() {
            Some((known, since)) if known == seen => (known, since),
            _ => (seen, clock),
        });
    }

    /// A write of ours succeeded. `asked_at` is when it was sent, not when it was answered.
    pub fn wrote(&mut self, seen: Seen, asked_at: Duration) {
        self.held_for = seen.duration;
        self.seen = Some((seen, asked_at));
        self.renewed = Some(asked_at);
    }

    /// Until when it may act as the leader.
    pub fn leads_until(&self) -> Option<Duration> {
        self.renewed.map(|at| at + self.timing.valid_for())
    }

    /// It leads no longer, because it does not want to. Nothing may be written as the leader any more
    /// when this is called.
    pub fn resign(&mut self) {
        self.renewed = None;
    }

    /// What to do now. `yields` is whether others had better lead.
    pub fn decide(&self, clock: Duration, yields: bool) -> Move {
        let holds = |seen: &Seen| seen.holder.as_deref() == Some(self.identity.as_str());
        if let Some(until) = self.leads_until() {
            return match &self.seen {
                Some((seen, _)) if holds(seen) && clock < until => Move::Renew {
                    resource_version: seen.resource_version.clone(),
                },
                _ => Move::Lost,
            };
        }
        match &self.seen {
            None if !self.looked => Move::Wait,
            None => Move::Create {
                duration: self.held_for.max(self.timing.duration),
            },
            Some((seen, since)) => {
                let quiet = clock.saturating_sub(*since);
                // A write whose answer was lost may have made it ours: then it is simply taken.
                let free = seen.holder.is_none() || holds(seen);
                if (free && !yields) || quiet >= seen.duration {
                    Move::Take {
                        resource_version: seen.resource_version.clone(),
                    }
                } else {
                    Move::Wait
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMING: Timing = Timing {
        duration: Duration::from_secs(15),
        renew: Duration::from_secs(5),
    };

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn seen(version: u64, holder: &str) -> Seen {
        Seen {
            resource_version: version.to_string(),
            holder: Some(holder.to_owned()).filter(|h| !h.is_empty()),
            duration: TIMING.duration,
        }
    }

    fn take(version: u64) -> Move {
        Move::Take {
            resource_version: version.to_string(),
        }
    }

    #[test]
    fn a_lease_expires_only_by_being_watched_unchanged() {
        let mut elector = Elector::new("a".into(), TIMING);
        assert_eq!(
            elector.decide(at(0), false),
            Move::Wait,
            "it has not looked"
        );
        elector.observe(Some(seen(7, "b")), at(100));
        assert_eq!(elector.decide(at(114), false), Move::Wait);
        elector.observe(Some(seen(7, "b")), at(114));
        assert_eq!(elector.decide(at(115), false), take(7));
        elector.observe(Some(seen(8, "b")), at(115));
        assert_eq!(
            elector.decide(at(129), false),
            Move::Wait,
            "renewed meanwhile"
        );
        elector.observe(Some(seen(8, "b")), at(130));
        assert_eq!(elector.decide(at(130), false), take(8));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let mut elector = Elector::new("a".into(), TIMING);
        elector.observe(Some(seen(7, "")), at(100));
        assert_eq!(elector.decide(at(100), false), take(7));
    }

    #[test]
    fn who_yields_takes_what_nobody_else_wants() {
        let mut leader = Elector::new("a".into(), TIMING);
        leader.wrote(seen(7, "a"), at(100));
        leader.resign();
        assert_eq!(leader.leads_until(), None);
        // Whether giving it back has worked or not.
        for holder in ["", "a"] {
            let mut elector = leader.clone();
            elector.observe(Some(seen(8, holder)), at(101));
            assert_eq!(elector.decide(at(115), true), Move::Wait, "{holder:?}");
            assert_eq!(elector.decide(at(116), true), take(8), "{holder:?}");
            assert_eq!(elector.decide(at(101), false), take(8), "{holder:?}");
        }
        leader.observe(Some(seen(8, "b")), at(101));
        assert_eq!(leader.decide(at(115), false), Move::Wait);
    }

    #[test]
    fn a_lease_that_vanished_is_made_for_somebody_and_taken_when_it_expires() {
        let create = |duration| Move::Create { duration };
        let mut fresh = Elector::new("a".into(), TIMING);
        fresh.observe(None, at(100));
        assert_eq!(fresh.decide(at(100), false), create(TIMING.duration));
        fresh.observe(Some(seen(8, SOMEBODY)), at(101));
        assert_eq!(fresh.decide(at(115), false), Move::Wait);
        assert_eq!(fresh.decide(at(116), false), take(8));

        let mut standby = Elector::new("a".into(), TIMING);
        let long = Duration::from_secs(60);
        let held = Seen {
            duration: long,
            ..seen(7, "b")
        };
        standby.observe(Some(held), at(100));
        standby.observe(None, at(110));
        assert_eq!(
            standby.decide(at(110), false),
            create(long),
            "as long as its holder's"
        );
    }

    #[test]
    fn a_leader_stops_at_two_thirds_since_it_asked() {
        let mut elector = Elector::new("a".into(), TIMING);
        elector.wrote(seen(7, "a"), at(100));
        assert_eq!(
            elector.decide(at(109), false),
            Move::Renew {
                resource_version: "7".into()
            }
        );
        assert_eq!(elector.leads_until(), Some(at(110)));
        assert_eq!(elector.decide(at(110), false), Move::Lost);
    }

    #[test]
    fn a_leader_that_sees_another_holder_is_none() {
        let mut elector = Elector::new("a".into(), TIMING);
        elector.wrote(seen(7, "a"), at(100));
        elector.observe(Some(seen(8, "b")), at(101));
        assert_eq!(elector.decide(at(101), false), Move::Lost);
        let mut elector = Elector::new("a".into(), TIMING);
        elector.wrote(seen(7, "a"), at(100));
        elector.observe(None, at(101));
        assert_eq!(
            elector.decide(at(101), false),
            Move::Lost,
            "the Lease was deleted"
        );
    }

    /// One Lease, as the API server keeps it.
    struct Server {
        version: u64,
        there: bool,
        holder: Option<String>,
    }

    impl Server {
        /// As the manifests make it.
        fn installed() -> Self {
            Self {
                version: 1,
                there: true,
                holder: None,
            }
        }
        fn get(&self) -> Option<Seen> {
            self.there.then(|| Seen {
                resource_version: self.version.to_string(),
                holder: self.holder.clone(),
                duration: TIMING.duration,
            })
        }
        fn put(&mut self, precondition: Option<&str>, holder: &str) -> Option<Seen> {
            let expected = self.there.then(|| self.version.to_string());
            if expected.as_deref() != precondition {
                return None;
            }
            self.version += 1;
            self.there = true;
            self.holder = Some(holder.to_owned()).filter(|h| !h.is_empty());
            self.get()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// This candidate looks, decides and writes; the answer to its write takes so many seconds,
        /// and is lost when the flag is set.
        Turn(usize, u64, bool),
        Pass(u64),
        /// If it leads, it gives the Lease back; whether that is written is the flag.
        GiveBack(usize, bool),
        /// Whether it yields from here on.
        Yield(usize, bool),
        /// Somebody deletes the Lease.
        Delete,
    }

    proptest! {
        /// Whatever is slow, lost or stopped for however long: never two leaders at one moment.
        #[test]
        fn never_two_leaders(steps in prop::collection::vec(
            prop_oneof![
                3 => (0..3_usize, 0..4_u64, prop::bool::weighted(0.2)).prop_map(|(c, d, l)| Step::Turn(c, d, l)),
                1 => (0..20_u64).prop_map(Step::Pass),
                1 => (0..3_usize, any::<bool>()).prop_map(|(c, w)| Step::GiveBack(c, w)),
                1 => (0..3_usize, any::<bool>()).prop_map(|(c, y)| Step::Yield(c, y)),
                1 => Just(Step::Delete),
            ],
            1..200,
        )) {
            let mut server = Server::installed();
            let mut candidates: Vec<_> =
                ["a", "b", "c"].map(|n| Elector::new(n.into(), TIMING)).into();
            let mut yields = [false; 3];
            let mut clock = at(0);

            for step in steps {
                match step {
                    Step::Pass(secs) => clock += at(secs),
                    Step::Delete => server.there = false,
                    Step::Yield(which, now) => yields[which] = now,
                    Step::GiveBack(which, written) => {
                        let candidate = &mut candidates[which];
                        let leads = candidate.leads_until().is_some();
                        if let Move::Renew { resource_version } = candidate.decide(clock, false)
                            && leads
                        {
                            candidate.resign();
                            if written {
                                server.put(Some(&resource_version), "");
                            }
                        }
                    }
                    Step::Turn(which, delay, lost) => {
                        let candidate = &mut candidates[which];
                        if candidate.leads_until().is_none() {
                            candidate.observe(server.get(), clock);
                        }
                        let precondition = match candidate.decide(clock, yields[which]) {
                            Move::Create { .. } => {
                                server.put(None, SOMEBODY);
                                candidate.observe(server.get(), clock);
                                continue;
                            }
                            Move::Take { resource_version } | Move::Renew { resource_version } =>
                                Some(resource_version),
                            Move::Wait => continue,
                            Move::Lost => {
                                let name = candidate.identity().to_owned();
                                *candidate = Elector::new(name + "'", TIMING);
                                continue;
                            }
                        };
                        let name = candidate.identity().to_owned();
                        let asked_at = clock;
                        let answer = server.put(precondition.as_deref(), &name);
                        clock += at(delay);
                        match answer {
                            Some(seen) if !lost => candidate.wrote(seen, asked_at),
                            _ => candidate.observe(server.get(), clock),
                        }
                    }
                }
                let leading = candidates
                    .iter()
                    .filter(|c| c.leads_until().is_some_and(|until| clock < until))
                    .count();
                prop_assert!(leading <= 1);
            }
        }
    }
}
