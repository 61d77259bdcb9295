//! The shards beside `main`: names, client URLs, cores.
//!
//! On the command line they are lists of pairs like `--initial-cluster`, in the config file a list of maps:
//!
//! ```yaml
//! shards:
//! - name: events
//!   listen-client-urls: http://127.0.0.1:2389
//!   advertise-client-urls: http://127.0.0.1:2389
//!   core: 1
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use keelson_storage::dir::{MAIN_SHARD, SHARD_NAME_BYTES_MAX, is_shard_name, shard_id};
use serde_yaml_ng::Value;

use super::cluster::{ClusterMember, parse_cluster};
use super::url::HttpUrl;

/// Shards of a process, `main` among them.
pub(super) const SHARDS_MAX: usize = 16;

/// The flags, in the order of a shard's fields.
pub(super) const SHARD_FLAGS: [(&str, &str); 3] = [
    ("listen-client-urls", "shards"),
    ("advertise-client-urls", "shards-advertise-client-urls"),
    ("core", "shards-cores"),
];

/// One shard beside `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Its name; its id is made from it.
    pub name: String,
    /// Where its clients are served; at least one, all of them can be bound.
    pub listen_client_urls: Vec<HttpUrl>,
    /// What `MemberList` says at its endpoints.
    pub advertise_client_urls: Vec<HttpUrl>,
    /// Its core, by place in the list of cores; the first one, 0, is `main`'s.
    pub core: usize,
}

impl ShardConfig {
    /// Addresses to serve clients on, in the order of the URLs.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.listen_client_urls.iter().map(HttpUrl::listen_address);
        let addresses = addresses.map(|address| address.expect("it was checked"));
        addresses.collect()
    }
}

/// Which flag is wrong, and a phrase about it.
pub(super) type Wrong = (&'static str, String);

/// Reads the values of the three flags; `taken` are addresses that others listen on.
pub(super) fn parse_shards(
    [listen, advertise, cores]: [&str; 3],
    taken: &[SocketAddr],
) -> Result<Vec<ShardConfig>, Wrong> {
    let wrong = |why| ("shards", why);
    let listen = parse_cluster(listen).map_err(wrong)?;
    check_names(&listen).map_err(wrong)?;
    check_addresses(&listen, taken).map_err(wrong)?;
    let wrong = |why| ("shards-advertise-client-urls", why);
    let mut advertise: BTreeMap<String, Vec<HttpUrl>> = parse_cluster(advertise)
        .map_err(wrong)?
        .into_iter()
        .map(|shard| (shard.name, shard.peer_urls))
        .collect();
    let mut cores = parse_cores(cores).map_err(|why| ("shards-cores", why))?;
    let shards = listen.into_iter().map(|shard| {
        let advertised = match advertise.remove(&shard.name) {
            Some(urls) => urls,
            None => advertised_by_default(&shard).map_err(wrong)?,
        };
        Ok(ShardConfig {
            core: cores.remove(&shard.name).unwrap_or(0),
            name: shard.name,
            listen_client_urls: shard.peer_urls,
            advertise_client_urls: advertised,
        })
    });
    let shards = shards.collect::<Result<_, Wrong>>()?;
    let stranger = |name: &String| format!("--shards has no shard {name:?}");
    if let Some(name) = advertise.keys().next() {
        return Err(("shards-advertise-client-urls", stranger(name)));
    }
    if let Some(name) = cores.keys().next() {
        return Err(("shards-cores", stranger(name)));
    }
    Ok(shards)
}

/// The values of the three flags that make these shards.
pub(super) fn show_shards(shards: &[ShardConfig]) -> [String; 3] {
    let pairs = |urls: fn(&ShardConfig) -> &[HttpUrl]| {
        let pairs = shards.iter().flat_map(|shard| {
            urls(shard)
                .iter()
                .map(|url| format!("{}={url}", shard.name))
        });
        pairs.collect::<Vec<_>>().join(",")
    };
    let cores = shards
        .iter()
        .map(|shard| format!("{}={}", shard.name, shard.core));
    [
        pairs(|shard| &shard.listen_client_urls),
        pairs(|shard| &shard.advertise_client_urls),
        cores.collect::<Vec<_>>().join(","),
    ]
}

/// The list in a config file as values of the three flags.
pub(super) fn flags_of_list(list: &[Value]) -> Result<Vec<(&'static str, String)>, String> {
    let mut values = [const { Vec::new() }; SHARD_FLAGS.len()];
    for shard in list {
        let shard = shard
            .as_mapping()
            .ok_or("must be a list of shards with their keys")?;
        let name = shard.get("name").and_then(Value::as_str);
        let name = name.ok_or("has a shard without a name")?;
        for (key, value) in shard {
            let key = key.as_str().unwrap_or_default();
            if key == "name" {
                continue;
            }
            let field = SHARD_FLAGS.iter().position(|(field, _)| *field == key);
            let field = field.ok_or_else(|| {
                format!("has {key:?} in {name}; a shard has name, listen-client-urls, advertise-client-urls, core")
            })?;
            let texts = match value {
                Value::Sequence(items) => items.iter().map(text_of).collect(),
                value => text_of(value).map(|text| text.split(',').map(str::to_owned).collect()),
            };
            let texts: Vec<String> =
                texts.ok_or_else(|| format!("has no plain {key} in {name}"))?;
            values[field].extend(texts.iter().map(|text| format!("{name}={}", text.trim())));
        }
        if !shard.contains_key("listen-client-urls") {
            return Err(format!("has {name} without listen-client-urls"));
        }
    }
    let flags = SHARD_FLAGS.iter().zip(values);
    let flags = flags.filter(|(_, values)| !values.is_empty());
    Ok(flags
        .map(|((_, flag), values)| (*flag, values.join(",")))
        .collect())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn check_names(shards: &[ClusterMember]) -> Result<(), String> {
    if shards.len() >= SHARDS_MAX {
        return Err(format!(
            "at most {SHARDS_MAX} shards, main among them, are possible"
        ));
    }
    let mut ids = BTreeMap::new();
    for shard in shards {
        let name = &shard.name;
        if name == MAIN_SHARD {
            return Err(format!(
                "{MAIN_SHARD} is always there, with the URLs of --listen-client-urls; leave it out"
            ));
        }
        if !is_shard_name(name) {
            return Err(format!(
                "{name:?} cannot be a shard's name: small letters, digits and hyphens, a letter first, \
                 {SHARD_NAME_BYTES_MAX} at most"
            ));
        }
        if let Some(other) = ids.insert(shard_id(name), name) {
            return Err(format!(
                "{name} and {other} have the same id, which is made of the name; rename one"
            ));
        }
    }
    Ok(())
}

fn check_addresses(shards: &[ClusterMember], taken: &[SocketAddr]) -> Result<(), String> {
    let mut owners: BTreeMap<SocketAddr, &str> =
        taken.iter().map(|address| (*address, MAIN_SHARD)).collect();
    for shard in shards {
        for url in &shard.peer_urls {
            let address = url.listen_address()?;
            let free = address.port() == 0;
            if let Some(other) = owners.insert(address, &shard.name).filter(|_| !free) {
                return Err(format!(
                    "{url} is {}'s, and {other} listens there too; every shard needs its own",
                    shard.name
                ));
            }
        }
    }
    Ok(())
}

/// Where it listens, unless that is everywhere.
fn advertised_by_default(shard: &ClusterMember) -> Result<Vec<HttpUrl>, String> {
    let is_everywhere = |url: &HttpUrl| {
        let address = url.host().parse::<IpAddr>();
        address.is_ok_and(|address| address.is_unspecified())
    };
    match shard.peer_urls.iter().find(|url| is_everywhere(url)) {
        None => Ok(shard.peer_urls.clone()),
        Some(url) => Err(format!(
            "{} listens at {url}, so it must be said how clients reach it: {}=http://host:port",
            shard.name, shard.name
        )),
    }
}

fn parse_cores(text: &str) -> Result<BTreeMap<String, usize>, String> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    let cores = pairs.map(|pair| {
        let core = pair.split_once('=').and_then(|(name, core)| {
            let core: u16 = core.parse().ok()?;
            Some((name.to_owned(), usize::from(core)))
        });
        core.ok_or_else(|| {
            format!("{pair:?} is not of the form name=core, a place in --cores from 0")
        })
    });
    cores.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wrong(values: [&str; 3]) -> String {
        let taken = ["127.0.0.1:2379".parse().unwrap()];
        let (flag, why) = parse_shards(values, &taken).unwrap_err();
        format!("{flag}: {why}")
    }

    #[test]
    fn shards_are_read_and_shown() {
        let shards = parse_shards(
            [
                "events=http://127.0.0.1:1,leases=http://0.0.0.0:2,events=http://localhost:3",
                "leases=http://a:2",
                "leases=1",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(shards.len(), 2);
        assert_eq!(shards[0].name, "events");
        assert_eq!(shards[0].client_addresses().len(), 2);
        assert_eq!(
            shards[0].advertise_client_urls,
            shards[0].listen_client_urls
        );
        assert_eq!((shards[0].core, shards[1].core), (0, 1));
        let shown = show_shards(&shards);
        let again = parse_shards([&shown[0], &shown[1], &shown[2]], &[]).unwrap();
        assert_eq!(again, shards);
        assert_eq!(parse_shards(["", "", ""], &[]).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (values, said) in [
            (["events", "", ""], "name=http://host:port"),
            (["main=http://127.0.0.1:1", "", ""], "leave it out"),
            (
                ["Events=http://127.0.0.1:1", "", ""],
                "cannot be a shard's name",
            ),
            (
                ["a=http://127.0.0.1:1,b=http://127.0.0.1:1", "", ""],
                "listens there too",
            ),
            (
                ["a=http://127.0.0.1:2379", "", ""],
                "main listens there too",
            ),
            (["a=http://host:1", "", ""], "IP address or localhost"),
            (["a=http://0.0.0.0:1", "", ""], "how clients reach it"),
            (
                ["a=http://127.0.0.1:1", "b=http://127.0.0.1:1", ""],
                "no shard \"b\"",
            ),
            (["a=http://127.0.0.1:1", "", "b=1"], "no shard \"b\""),
            (["a=http://127.0.0.1:1", "", "a=x"], "name=core"),
        ] {
            let why = wrong(values);
            assert!(why.contains(said), "{values:?}: {why}");
        }
        let many: Vec<String> = (0..SHARDS_MAX)
            .map(|at| format!("s{at}=http://127.0.0.1:{}", at + 1))
            .collect();
        assert!(wrong([&many.join(","), "", ""]).contains("at most 16"));
    }

    #[test]
    fn a_config_file_has_a_list() {
        let list = |text: &str| {
            let value: Value = serde_yaml_ng::from_str(text).unwrap();
            flags_of_list(value.as_sequence().unwrap())
        };
        let flags = list(
            "- name: events\n  listen-client-urls: http://a:1,http://b:2\n  core: 1\n\
             - name: leases\n  listen-client-urls: [http://a:3]\n  advertise-client-urls: http://c:3\n",
        );
        let text = |text: &str| text.to_owned();
        assert_eq!(
            flags.unwrap(),
            [
                (
                    "shards",
                    text("events=http://a:1,events=http://b:2,leases=http://a:3")
                ),
                ("shards-advertise-client-urls", text("leases=http://c:3")),
                ("shards-cores", text("events=1")),
            ]
        );
        for (text, said) in [
            ("- events", "list of shards"),
            ("- listen-client-urls: http://a:1", "without a name"),
            ("- name: events", "without listen-client-urls"),
            ("- name: events\n  cores: 1", "\"cores\" in events"),
        ] {
            let why = list(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
