//! Where things stand in a group's rows.

use crate::stream::{AVERAGES, FAMILIES, LENGTHS, Stream};

/// Bars that a history can grow by before it is moved back.
pub const ROOM: usize = 4;

/// Where things stand in a group's rows.
#[derive(Clone, Copy)]
pub struct Places {
    pub history: usize,
    pub y_first: usize,
    /// [history + ROOM].
    pub x: usize,
    /// [y_first + ROOM][LENGTHS].
    pub y: usize,
    /// [4][LENGTHS].
    pub recursive: usize,
    /// [layer 1][FAMILIES][LENGTHS].
    pub equity1: usize,
    /// [layer 1][FAMILIES].
    pub q: usize,
    /// [member][FAMILIES].
    pub equity2: usize,
    pub stride: usize,
}

impl Places {
    pub fn of(stream: &Stream, layers: usize, members: usize) -> Self {
        let history = stream.history;
        let y_first = stream.smooth.into_iter().max().unwrap_or(1) - 1;
        let x = 1;
        let y = x + history + ROOM;
        let recursive = y + (y_first + ROOM) * LENGTHS;
        let equity1 = recursive + 4 * LENGTHS;
        let q = equity1 + layers * AVERAGES;
        let equity2 = q + layers * FAMILIES;
        Self { history, y_first, x, y, recursive, equity1, q, equity2, stride: equity2 + members * FAMILIES }
    }
}

impl Places {
    /// Places of a state's values in the order of their slots, up to the sides.
    pub fn values(self, stream: &Stream) -> impl Iterator<Item = usize> {
        let smoothing = stream.smooth.iter().enumerate().flat_map(move |(j, smooth)| {
            (self.y_first + 1 - smooth..self.y_first).map(move |row| self.y + row * LENGTHS + j)
        });
        std::iter::once(0)
            .chain(self.x..self.x + self.history)
            .chain(smoothing)
            .chain(self.recursive..self.recursive + 4 * LENGTHS)
    }

    /// Places of a configuration's equities in the order of their slots.
    pub fn equities(self, layer1: usize, member: usize) -> impl Iterator<Item = usize> {
        let (first, second) = (self.equity1 + layer1 * AVERAGES, self.equity2 + member * FAMILIES);
        let q = self.q + layer1 * FAMILIES;
        (first..first + AVERAGES).chain(second..second + FAMILIES).chain(q..q + FAMILIES)
    }
}
