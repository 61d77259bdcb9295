//! Which cores the member runs on.

use super::error::ConfigError;

/// The value of `--cores`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreSelection {
    /// Half of the cores that the process may use, at least one: the rest is for whom it serves.
    #[default]
    Auto,
    /// Every core that the process may use.
    All,
    /// That many, the lowest-numbered first.
    Count(u32),
    /// Exactly these, in this order; the first one is the engine's.
    List(Vec<u32>),
}

impl CoreSelection {
    /// Reads `auto`, `all`, a count such as `2`, or a list such as `0,2-3`. A list of one core is written
    /// as a range: `3-3`.
    ///
    /// # Errors
    /// A phrase that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "expected auto, all, a count such as 2, or a list such as 0,2-3";
        match text {
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::All),
            _ => {}
        }
        if !text.contains([',', '-']) {
            return match text.parse() {
                Ok(0) => Err("a member needs at least one core".to_owned()),
                Ok(count) => Ok(Self::Count(count)),
                Err(_) => Err(SHAPE.to_owned()),
            };
        }
        let mut cores = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| SHAPE.to_owned())?;
            let last: u32 = last.parse().map_err(|_| SHAPE.to_owned())?;
            if first > last {
                return Err(format!("{part} runs backwards"));
            }
            if last > 4095 {
                return Err(format!("there is no core {last}"));
            }
            cores.extend(first..=last);
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != cores.len() {
            return Err("a core is named twice".to_owned());
        }
        Ok(Self::List(cores))
    }

    /// The cores to run on, of those that this process may use.
    ///
    /// # Errors
    /// A sentence, when there are fewer or others than asked for.
    pub fn resolve(&self, online: &[u32]) -> Result<Vec<u32>, ConfigError> {
        let cores = match self {
            Self::Auto => online[..online.len().div_ceil(2)].to_vec(),
            Self::All => online.to_vec(),
            Self::Count(count) => {
                let count = *count as usize;
                if count > online.len() {
                    return Err(ConfigError::Unfit(format!(
                        "--cores asks for {count} cores, but this process may use {}: {}",
                        online.len(),
                        listed(online)
                    )));
                }
                online[..count].to_vec()
            }
            Self::List(cores) => {
                if let Some(missing) = cores.iter().find(|core| !online.contains(core)) {
                    return Err(ConfigError::Unfit(format!(
                        "--cores names core {missing}, but this process may only use {}",
                        listed(online)
                    )));
                }
                cores.clone()
            }
        };
        if cores.is_empty() {
            return Err(ConfigError::Unfit(
                "this process may not use any core".to_owned(),
            ));
        }
        Ok(cores)
    }
}

fn listed(cores: &[u32]) -> String {
    cores
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_read() {
        for (text, selection) in [
            ("auto", CoreSelection::Auto),
            ("all", CoreSelection::All),
            ("2", CoreSelection::Count(2)),
            ("3-3", CoreSelection::List(vec![3])),
            ("0,2-4", CoreSelection::List(vec![0, 2, 3, 4])),
            ("5,1", CoreSelection::List(vec![5, 1])),
        ] {
            assert_eq!(CoreSelection::parse(text), Ok(selection), "{text}");
        }
        for text in [
            "", "0", "-1", "a", "1,", "1-", "3-1", "1,1", "0-1,1-2", "1-99999",
        ] {
            assert!(CoreSelection::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_selection_must_exist() {
        let online = [1, 4, 5];
        let resolve = |text| CoreSelection::parse(text).unwrap().resolve(&online);
        assert_eq!(resolve("auto").unwrap(), [1, 4]);
        assert_eq!(CoreSelection::Auto.resolve(&[7]).unwrap(), [7]);
        assert_eq!(resolve("all").unwrap(), [1, 4, 5]);
        assert_eq!(resolve("2").unwrap(), [1, 4]);
        assert_eq!(resolve("5,1").unwrap(), [5, 1]);
        assert_eq!(
            resolve("4").unwrap_err().to_string(),
            "--cores asks for 4 cores, but this process may use 3: 1,4,5"
        );
        assert_eq!(
            resolve("0-1").unwrap_err().to_string(),
            "--cores names core 0, but this process may only use 1,4,5"
        );
    }
}
