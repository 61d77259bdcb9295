//! etcd's feature gates, and what each means here.

/// One gate of etcd 3.6 or 3.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The gate's name.
    pub name: &'static str,
    /// `ALPHA` or `BETA`.
    pub stage: &'static str,
    /// Whether it is on when nobody sets it.
    pub default: bool,
    /// What turning it to its other value changes here.
    pub effect: Effect,
}

/// What a gate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it does in etcd.
    Used,
    /// Nothing, for this reason.
    Nothing(&'static str),
    /// Something that Keelson does not have, so it cannot be turned on; this is what to do.
    NotSupported(&'static str),
}

/// All gates, in alphabetical order.
pub const FEATURES: [Feature; 9] = [
    Feature {
        name: "CompactHashCheck",
        stage: "ALPHA",
        default: false,
        effect: Effect::Used,
    },
    Feature {
        name: "FastLeaseKeepAlive",
        stage: "BETA",
        default: true,
        effect: Effect::Nothing("a renewal is part of the log and never waits for other requests"),
    },
    Feature {
        name: "InitialCorruptCheck",
        stage: "ALPHA",
        default: false,
        effect: Effect::Used,
    },
    Feature {
        name: "LeaseCheckpoint",
        stage: "ALPHA",
        default: false,
        effect: Effect::Nothing("remaining TTLs always survive a restart and a change of leader"),
    },
    Feature {
        name: "LeaseCheckpointPersist",
        stage: "ALPHA",
        default: false,
        effect: Effect::Nothing("remaining TTLs always survive a restart and a change of leader"),
    },
    Feature {
        name: "PriorityRequest",
        stage: "ALPHA",
        default: false,
        effect: Effect::NotSupported("all requests have the same priority; leave the gate out"),
    },
    Feature {
        name: "SetMemberLocalAddr",
        stage: "ALPHA",
        default: false,
        effect: Effect::Nothing("the system chooses the address from which peers are dialled"),
    },
    Feature {
        name: "StopGRPCServiceOnDefrag",
        stage: "ALPHA",
        default: false,
        effect: Effect::Nothing("defragmentation never blocks requests"),
    },
    Feature {
        name: "TxnModeWriteWithSharedBuffer",
        stage: "BETA",
        default: true,
        effect: Effect::Nothing("transactions need no copy of a write buffer"),
    },
];

/// Which gates are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    enabled: [bool; FEATURES.len()],
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self {
            enabled: FEATURES.map(|feature| feature.default),
        }
    }
}

impl FeatureGates {
    /// Every gate and whether it is on.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Feature, bool)> + '_ {
        FEATURES.iter().zip(self.enabled)
    }

    /// Whether the gate of that name is on; an unknown one is off.
    pub fn enabled(&self, name: &str) -> bool {
        self.iter()
            .any(|(feature, enabled)| feature.name == name && enabled)
    }

    /// Applies `Name=true,Other=false`; `AllAlpha` and `AllBeta` stand for all gates of a stage.
    /// Returns the reasons why what was set changes nothing.
    ///
    /// # Errors
    /// A phrase about the first gate that is unknown, malformed or not supported.
    pub(super) fn apply(&mut self, text: &str) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not of the form Name=true"))?;
            let value = super::spelling::parse_bool(value.trim())
                .map_err(|why| format!("{why} for {name}"))?;
            notes.extend(self.set(name.trim(), value)?);
        }
        Ok(notes)
    }

    fn set(&mut self, name: &str, value: bool) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        let mut found = false;
        for (index, feature) in FEATURES.iter().enumerate() {
            let of_stage = matches!(
                (name, feature.stage),
                ("AllAlpha", "ALPHA") | ("AllBeta", "BETA")
            );
            if feature.name != name && !of_stage {
                continue;
            }
            found = true;
            match feature.effect {
                Effect::NotSupported(advice) if value && !of_stage => {
                    return Err(format!("{name} is not supported: {advice}"));
                }
                Effect::NotSupported(_) if value => {}
                Effect::NotSupported(_) | Effect::Used => self.enabled[index] = value,
                Effect::Nothing(why) => {
                    self.enabled[index] = value;
                    if value != feature.default {
                        notes.push(format!(
                            "feature gate {}={value} changes nothing: {why}",
                            feature.name
                        ));
                    }
                }
            }
        }
        if !found {
            let known = FEATURES.map(|feature| feature.name).join(", ");
            return Err(format!(
                "there is no feature gate {name:?}; known are {known}"
            ));
        }
        Ok(notes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_set_and_explained() {
        let mut gates = FeatureGates::default();
        assert!(gates.enabled("TxnModeWriteWithSharedBuffer"));
        let notes = gates
            .apply("InitialCorruptCheck=true, LeaseCheckpoint=true")
            .unwrap();
        assert_eq!(
            notes,
            ["feature gate LeaseCheckpoint=true changes nothing: \
              remaining TTLs always survive a restart and a change of leader"]
        );
        assert!(gates.enabled("InitialCorruptCheck"));
        assert!(!gates.enabled("CompactHashCheck"));
    }

    #[test]
    fn stages_are_set_as_a_whole() {
        let mut gates = FeatureGates::default();
        gates.apply("AllAlpha=true,AllBeta=false").unwrap();
        assert!(gates.enabled("CompactHashCheck"));
        assert!(!gates.enabled("PriorityRequest"));
        assert!(!gates.enabled("FastLeaseKeepAlive"));
    }

    #[test]
    fn wrong_gates_are_refused() {
        for (text, part) in [
            (
                "Nope=true",
                "there is no feature gate \"Nope\"; known are CompactHashCheck",
            ),
            ("InitialCorruptCheck", "is not of the form Name=true"),
            (
                "InitialCorruptCheck=yes",
                "expected true or false for InitialCorruptCheck",
            ),
            ("PriorityRequest=true", "PriorityRequest is not supported"),
        ] {
            let error = FeatureGates::default().apply(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(
            FeatureGates::default()
                .apply("PriorityRequest=false,")
                .is_ok()
        );
    }
}
