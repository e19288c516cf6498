//! Which pass a family takes, given its settings: pass 1 of the algorithm, one family at a time.

use crate::averages::{
    Dema, Ema, Halves, Hma, Kama, LSMA as BY_LSMA, Rows, SMA, Seed, WMA as BY_WMA, Windowed,
};
use crate::signs::Crossing;
use crate::stream::{DEMA, EMA, FAMILIES, HMA, KAMA, LENGTHS, LSMA, Stream, WMA};
use crate::sums::{Doublings, Scratch, Window};
use crate::vector::Vector;

type Nine<T> = [T; LENGTHS];

/// What a family's averages are made of, for the bars of a tile.
pub struct Inputs<'a, V> {
    pub stream: &'a Stream,
    pub x: Rows<'a, V>,
    /// |x[t] - x[t-1]|.
    pub change: Rows<'a, V>,
    /// Of the family's shortest length, and of HMA's shortest half.
    pub window: Sums<'a, V>,
    pub half: Sums<'a, V>,
    /// Sums of KAMA's shortest window over `change`.
    pub noise: &'a [V],
    /// [y_first + bar].
    pub y: &'a mut [Nine<V>],
    pub y_first: usize,
    /// EMA, DEMA's E1 and E2, KAMA.
    pub recursive: &'a mut [Nine<V>; 4],
}

/// Plain and weighted sums of one window, a value per bar.
#[derive(Clone, Copy)]
pub struct Sums<'a, V> {
    pub shortest: usize,
    pub s: &'a [V],
    pub w: &'a [V],
}

/// Sums of every family's shortest window, over a tile of bars.
pub struct FamilySums<V> {
    sums: Doublings<V>,
    change_sums: Doublings<V>,
    /// Of the shortest window by family, HMA's shortest half last; families of equal length share.
    windows: Vec<Window<V>>,
    window_of: [usize; FAMILIES + 1],
    noise: Window<V>,
}

impl<V: Vector> FamilySums<V> {
    /// For tiles of at most `most` bars.
    pub fn new(stream: &Stream, most: usize) -> Self {
        let rows = stream.history + most;
        let mut windows: Vec<Window<V>> = Vec::new();
        let mut window_of = [0; FAMILIES + 1];
        let lengths = [EMA, HMA, WMA, DEMA, LSMA, KAMA].map(|family| stream.shortest(family));
        for (index, length) in lengths.into_iter().chain([lengths[HMA] / 2]).enumerate() {
            window_of[index] = windows.iter().position(|w| w.length == length).unwrap_or(windows.len());
            if window_of[index] == windows.len() {
                windows.push(Window::new(length, true, most));
            }
        }
        let all: Vec<usize> = windows.iter().map(|w| w.length).collect();
        Self {
            sums: Doublings::new(&all, true, rows),
            change_sums: Doublings::new(&[stream.shortest(KAMA)], false, rows),
            windows,
            window_of,
            noise: Window::new(stream.shortest(KAMA), false, most),
        }
    }

    /// For the bars at rows `first..stop` of the values and their changes. A settled EMA or DEMA needs no
    /// window any more.
    pub fn fill(&mut self, x: &[V], change: &[V], (first, stop): (usize, usize), settled: &[bool; FAMILIES]) {
        self.sums.fill(x, first, stop);
        for (index, window) in self.windows.iter_mut().enumerate() {
            let needed = |family: usize| {
                self.window_of[family] == index && (![EMA, DEMA].contains(&family) || !settled[family])
            };
            if [EMA, HMA, WMA, DEMA, LSMA, FAMILIES].into_iter().any(needed) {
                window.fill(&self.sums, x, first, stop);
            }
        }
        self.change_sums.fill(change, first, stop);
        self.noise.fill(&self.change_sums, change, first, stop);
    }

    /// The same for the last value alone, as the first and only bar.
    #[inline(always)]
    pub fn fill_last(&mut self, x: &[V], change: &[V], scratch: &mut Scratch<V>) {
        for window in &mut self.windows {
            (window.s[0], window.w[0]) = scratch.last(x, window.length);
        }
        self.noise.s[0] = scratch.last(change, self.noise.length).0;
    }

    /// A family's, or with `FAMILIES` those of HMA's half, for the first `n` bars.
    pub fn of(&self, family: usize, n: usize) -> Sums<'_, V> {
        let window = &self.windows[self.window_of[family]];
        Sums { shortest: window.length, s: &window.s[..n], w: &window.w[..n] }
    }

    pub fn noise(&self, n: usize) -> &[V] {
        &self.noise.s[..n]
    }
}

/// The family's averages, each straight into its signals.
pub fn signs_of<V: Vector, const FORM: u8>(
    family: usize,
    robustness: usize,
    inputs: Inputs<V>,
    crossing: Crossing<V>,
) {
    match robustness {
        0 => robust::<V, 0, FORM>(family, inputs, crossing),
        1 => robust::<V, 1, FORM>(family, inputs, crossing),
        _ => robust::<V, 2, FORM>(family, inputs, crossing),
    }
}

fn robust<V: Vector, const R: usize, const FORM: u8>(
    family: usize,
    inputs: Inputs<V>,
    crossing: Crossing<V>,
) {
    let Inputs { stream, x, change, window: Sums { shortest, s, w }, half, noise, y, y_first, recursive } =
        inputs;
    let alpha = &stream.alpha[family];
    let seed = Seed { pine: stream.pine, shortest, s, sma: &stream.sma[family] };
    let [ema, e1, e2, k] = recursive;
    match family {
        EMA => V::enter(Ema::<V, R, FORM> { crossing, x, alpha, seed, e: ema }),
        DEMA => V::enter(Dema::<V, R, FORM> { crossing, x, alpha, seed, e1, e2 }),
        KAMA => V::enter(Kama::<V, R, FORM> {
            crossing,
            x,
            change,
            shortest,
            noise,
            lengths: &stream.lengths[family],
            pine: stream.pine,
            k,
        }),
        HMA if !stream.pine => {
            let halves = Halves { s: half.s, w: half.w, by: &stream.hma_half };
            let (by_full, by_smooth, smooth) = (&stream.wma[family], &stream.hma_smooth, &stream.smooth);
            if shortest % 2 == 1 {
                V::enter(Hma::<V, 1, R, FORM> {
                    crossing,
                    x,
                    shortest,
                    s,
                    w,
                    halves,
                    by_full,
                    by_smooth,
                    smooth,
                    y,
                    y_first,
                });
            } else {
                V::enter(Hma::<V, 0, R, FORM> {
                    crossing,
                    x,
                    shortest,
                    s,
                    w,
                    halves,
                    by_full,
                    by_smooth,
                    smooth,
                    y,
                    y_first,
                });
            }
        }
        HMA => {
            let (by_s, by_w) = (&stream.sma[family], &stream.wma[family]);
            V::enter(Windowed::<V, SMA, R, FORM> { crossing, x, shortest, s, w, by_s, by_w });
        }
        WMA => {
            let (by_s, by_w) = (&stream.sma[family], &stream.wma[family]);
            V::enter(Windowed::<V, BY_WMA, R, FORM> { crossing, x, shortest, s, w, by_s, by_w });
        }
        _ => {
            let (by_s, by_w) = (&stream.lsma_s[family], &stream.lsma_w[family]);
            V::enter(Windowed::<V, BY_LSMA, R, FORM> { crossing, x, shortest, s, w, by_s, by_w });
        }
    }
}
