//! A profile as one more place where values stand: below flags, environment and config file.

use keelson_tuning::Profile;

use super::assemble::Notice;
use super::error::ConfigError;
use super::flags::flag;
use super::given::{Given, Source};

/// Puts the values of the profile that `given` names before the others, so that those count; with
/// a notice for the log. Without a profile nothing changes.
///
/// # Errors
/// There is no such profile, its file cannot be read, or something in it is wrong.
pub fn over_profile(
    given: Vec<Given>,
    read_file: impl Fn(&str) -> Result<String, String>,
) -> Result<(Vec<Given>, Option<Notice>), ConfigError> {
    let named = given.iter().rfind(|given| given.flag.name == "profile");
    let Some(named) = named.filter(|given| !given.value.is_empty()) else {
        return Ok((given, None));
    };
    let profile = if Profile::is_path(&named.value) {
        let text = read_file(&named.value)
            .map_err(|why| ConfigError::bad_value(named, format!("cannot read the file: {why}")))?;
        Profile::parse(&named.value, &text)?
    } else {
        Profile::built_in(&named.value)?
    };
    let counts = |flag: &str| given.iter().all(|given| given.flag.name != flag);
    let values: Vec<String> = profile
        .values
        .iter()
        .filter(|value| counts(&value.flag()))
        .map(|value| format!("{}={}", value.flag(), value.text()))
        .collect();
    let text = format!("profile {} sets {}", profile.name, values.join(" "));
    let from_profile = profile.values.iter().map(|value| Given {
        flag: flag(&value.flag()).expect("what a profile can set is a flag, which a test checks"),
        value: value.text(),
        source: Source::Profile(profile.name.clone()),
    });
    Ok((
        from_profile.chain(given).collect(),
        Some(Notice::info(text)),
    ))
}

#[cfg(test)]
mod tests {
    use keelson_tuning::defaults_document;

    use super::*;

    #[test]
    fn everything_that_a_profile_can_set_is_a_flag() {
        let profile = Profile::parse("defaults", &defaults_document());
        for value in profile.expect("the document is a profile").values {
            assert!(flag(&value.flag()).is_some(), "{}", value.flag());
        }
    }
}
