//! What befalls the words of one member to another: a table that whoever carries them looks into.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::cluster::MEMBERS;

/// What one member's words to another one have to suffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing arrives.
    pub is_cut: bool,
    /// Everything arrives so much later.
    pub delay: Duration,
    /// And up to so much more.
    pub jitter: Duration,
    /// Of a thousand packets so many are lost; a proxy, whose connections cannot lose anything, breaks the connection.
    pub loss_permille: u32,
}

/// The network between the members. Clients reach every member at all times.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    weather: [[Weather; MEMBERS]; MEMBERS],
    /// Counts up when the connections of one member to another are broken.
    breaks: [[u64; MEMBERS]; MEMBERS],
    /// Members by the id that they say they have.
    ids: Vec<(u64, usize)>,
}

impl Network {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Sets what the words of `from` to `to` suffer.
    pub fn set(&self, from: usize, to: usize, weather: Weather) {
        self.table().weather[from][to] = weather;
    }

    /// What the words of `from` to `to` suffer now. What nobody can be named for suffers nothing.
    pub fn weather(&self, from: Option<usize>, to: Option<usize>) -> Weather {
        match (from, to) {
            (Some(from), Some(to)) => self.table().weather[from][to],
            _ => Weather::default(),
        }
    }

    /// Nobody suffers any more. If `breaks`, connections that suffered end; else they go on where they stood.
    pub fn mend(&self, breaks: bool) {
        let table = &mut *self.table();
        for from in 0..MEMBERS {
            for to in 0..MEMBERS {
                let weather = std::mem::take(&mut table.weather[from][to]);
                if breaks && weather != Weather::default() {
                    table.breaks[from][to] += 1;
                }
            }
        }
    }

    /// How often connections between the two were broken.
    pub fn breaks(&self, from: Option<usize>, to: Option<usize>) -> u64 {
        match (from, to) {
            (Some(from), Some(to)) => {
                let table = self.table();
                table.breaks[from][to] + table.breaks[to][from]
            }
            _ => 0,
        }
    }

    /// Tells who a member is by its id.
    pub fn know(&self, id: u64, member: usize) {
        let ids = &mut self.table().ids;
        if !ids.contains(&(id, member)) {
            ids.push((id, member));
        }
    }

    /// Whose id it is.
    pub fn member(&self, id: u64) -> Option<usize> {
        let table = self.table();
        let found = table.ids.iter().find(|(known, _)| *known == id);
        found.map(|(_, member)| *member)
    }
}
