//! Between rows of symbols and lanes of vectors: which bars a tile holds, gathered and put back.

use crate::advance::Prices;
use crate::vector::Vector;

/// The symbols of a group and how far each has come in the block. Lanes beyond the last symbol, and
/// lanes whose bars are used up, are inactive: they repeat harmless prices and are never saved.
pub struct Lanes<'a> {
    prices: Prices<'a>,
    pub first: usize,
    lanes: Vec<Lane>,
    /// Bars of the current tile.
    pub n: usize,
}

struct Lane {
    /// Bar number of the tile's first bar.
    t: i64,
    remaining: usize,
    /// Next position in the block.
    position: usize,
    /// Has it a bar at every position?
    gapless: bool,
    /// Positions of the tile's bars.
    at: Where,
}

enum Where {
    From(usize),
    Listed(Vec<usize>),
}

impl<'a> Lanes<'a> {
    pub fn new(prices: Prices<'a>, first: usize, counts: &[usize], bars: &[i64]) -> Self {
        let lane = |(&remaining, &t)| Lane {
            t,
            remaining,
            position: 0,
            gapless: remaining == prices.n_bars,
            at: Where::From(0),
        };
        Self { prices, first, lanes: counts.iter().zip(bars).map(lane).collect(), n: 0 }
    }

    /// Bars of the next tile: at most `most`, and no more than any active lane has; 0 at the end.
    pub fn next_tile(&mut self, most: usize) -> usize {
        let remaining = self.lanes.iter().map(|lane| lane.remaining).filter(|&r| r > 0);
        self.n = remaining.min().unwrap_or(0).min(most);
        self.n
    }

    pub fn active(&self) -> impl Iterator<Item = (usize, i64)> {
        self.lanes.iter().enumerate().filter(|(_, lane)| lane.remaining > 0).map(|(i, lane)| (i, lane.t))
    }

    /// Is this tile the last of an active lane?
    pub fn finishes(&self) -> bool {
        self.lanes.iter().any(|lane| lane.remaining == self.n)
    }

    pub fn t<V: Vector>(&self) -> V {
        let mut t = [V::splat(0.0)];
        for (number, lane) in V::numbers_mut(&mut t).iter_mut().zip(&self.lanes) {
            *number = lane.t as f64;
        }
        t[0]
    }

    /// Gather the tile's closes and sources; inactive lanes repeat the vector before them.
    pub fn gather<V: Vector>(&mut self, before: (V, V), close: &mut [V], source: &mut [V]) {
        let n = self.n;
        let (close, source) = (&mut close[..n], &mut source[..n]);
        if self.lanes.len() < V::LANES || self.lanes.iter().any(|lane| lane.remaining == 0) {
            close.fill(before.0);
            source.fill(before.1);
        }
        let same = std::ptr::eq(self.prices.close, self.prices.source);
        for (i, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.remaining > 0) {
            let symbol = self.first + i;
            lane.find(self.prices.close_of(symbol), n);
            lane.pack(self.prices.close_of(symbol), i, close);
            if !same {
                lane.pack(self.prices.source_of(symbol), i, source);
            }
        }
        if same {
            source.copy_from_slice(close);
        }
    }

    /// Write lane by lane to `out`, [n_symbols, values, n_bars]; `value(bar)` is the tile's vector.
    pub fn scatter<V: Vector>(
        &self,
        out: &mut [f64],
        (values, index): (usize, usize),
        tile: &[V],
        stride: usize,
    ) {
        for (i, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.remaining > 0) {
            let row = ((self.first + i) * values + index) * self.prices.n_bars;
            let row = &mut out[row..][..self.prices.n_bars];
            let of_lane = V::numbers(tile).chunks(stride * V::LANES).map(|vectors| vectors[i]);
            match &lane.at {
                Where::From(start) => {
                    row[*start..][..self.n].iter_mut().zip(of_lane).for_each(|(to, value)| *to = value);
                }
                Where::Listed(at) => at.iter().zip(of_lane).for_each(|(&at, value)| row[at] = value),
            }
        }
    }

    /// Take the tile as done; the lanes that it finished.
    pub fn step(&mut self) -> Vec<usize> {
        let mut finished = Vec::new();
        for (i, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.remaining > 0) {
            lane.remaining -= self.n;
            lane.t += self.n as i64;
            if lane.remaining == 0 {
                finished.push(i);
            }
        }
        finished
    }
}

impl Lane {
    /// The tile's values out of a symbol's row, into lane `i`.
    fn pack<V: Vector>(&self, row: &[f64], i: usize, tile: &mut [V]) {
        let tile = V::numbers_mut(tile).chunks_exact_mut(V::LANES);
        match &self.at {
            Where::From(start) => tile.zip(&row[*start..]).for_each(|(to, value)| to[i] = *value),
            Where::Listed(at) => tile.zip(at).for_each(|(to, &at)| to[i] = row[at]),
        }
    }

    /// The next `n` present bars.
    fn find(&mut self, close: &[f64], n: usize) {
        let next = &close[self.position..][..n];
        // No early exit: a loop without one is vectorised.
        if self.gapless || !next.iter().fold(false, |gap, close| gap | close.is_nan()) {
            self.at = Where::From(self.position);
            self.position += n;
            return;
        }
        let mut list = match std::mem::replace(&mut self.at, Where::From(0)) {
            Where::Listed(list) => list,
            Where::From(_) => Vec::with_capacity(n),
        };
        list.clear();
        while list.len() < n {
            if !close[self.position].is_nan() {
                list.push(self.position);
            }
            self.position += 1;
        }
        self.at = Where::Listed(list);
    }
}
