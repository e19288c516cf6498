//! The door to Python: take arrays apart, release the GIL, call, map the error.

use crate::advance::{Advance, Outputs, Prices, StreamJob};
use crate::arch::Level;
use crate::follow::{Follow, Followed, Parts, follow};
use crate::stream::{EQUITY_SLOTS, FAMILIES, LENGTHS, Member, Table};
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

#[pymodule]
mod _rust {
    #[pymodule_export]
    use super::{Follower, Stream, advance, levels};
}

/// Lengths and constants of one stream, checked and ready for `advance`.
#[pyclass(frozen, module = "atc_backtest.kernels._rust")]
struct Stream(crate::stream::Stream);

#[pymethods]
impl Stream {
    #[new]
    fn new(layout: &Bound<'_, PyAny>, constants: &Bound<'_, PyAny>) -> PyResult<Self> {
        let stream = crate::stream::Stream {
            lengths: table(layout, "lengths", |length: i64| length as usize)?,
            first: table(layout, "first", |t: i64| t as f64)?,
            pine: layout.getattr("pine")?.extract()?,
            history: layout.getattr("history")?.extract()?,
            smooth: nine(layout, "smooth", |w: i64| w as usize)?,
            alpha: table(constants, "alpha", |value| value)?,
            sma: table(constants, "sma", |value| value)?,
            wma: table(constants, "wma", |value| value)?,
            lsma_w: table(constants, "lsma_w", |value| value)?,
            lsma_s: table(constants, "lsma_s", |value| value)?,
            half: nine(constants, "half", |h: i64| h as usize)?,
            hma_half: nine(constants, "hma_half", |value| value)?,
            hma_smooth: nine(constants, "hma_smooth", |value| value)?,
        };
        stream.check().map_err(PyValueError::new_err)?;
        Ok(Self(stream))
    }
}

/// The levels this processor has, best first.
#[pyfunction]
fn levels() -> Vec<&'static str> {
    Level::ALL.into_iter().filter(|level| level.available()).map(Level::name).collect()
}

/// Advance `bars`, `equities` and the values of every job in place and fill `outputs`.
#[pyfunction]
#[pyo3(signature = (jobs, bars, equities, prices, outputs, level="auto"))]
fn advance(
    py: Python<'_>,
    jobs: Vec<Job<'_>>,
    bars: &Bound<'_, PyAny>,
    equities: &Bound<'_, PyAny>,
    prices: &Bound<'_, PyAny>,
    outputs: &Bound<'_, PyAny>,
    level: &str,
) -> PyResult<()> {
    let level = Level::from_name(level).map_err(PyValueError::new_err)?;
    let close = Array::<f64>::of(&prices.getattr("close")?, "close", false)?;
    let source = Array::<f64>::of(&prices.getattr("averaged")?, "source", false)?;
    let bars = Array::<i64>::of(bars, "bars", true)?;
    let equities = Array::<f64>::of(equities, "equities", true)?;
    let values: Vec<_> =
        jobs.iter().map(|job| Array::<f64>::of(&job.2, "values", true)).collect::<PyResult<_>>()?;
    let members: Vec<_> = jobs.iter().map(|job| Members::of(&job.1)).collect::<PyResult<_>>()?;
    let [signal, layer1, equity2, average, sign, equity1] =
        ["signal", "layer1", "equity2", "average", "sign", "equity1"].map(|name| output(outputs, name));
    let filled = [signal?, layer1?, equity2?, average?, sign?, equity1?];

    let shape = close.buffer.shape();
    let (n_symbols, n_bars) = (shape[0], shape.get(1).copied().unwrap_or(0));
    let n_configs = equities.buffer.shape()[0];
    let written = filled.iter().flatten().chain(&values).chain([&equities]).map(Array::bytes);
    apart(written.chain([bars.bytes()]).collect(), [close.bytes(), source.bytes()])?;

    // SAFETY: `apart` has shown that no written array overlaps another array.
    let call = unsafe {
        let streams = jobs.iter().zip(&members).zip(&values).map(|((job, members), values)| {
            Ok(StreamJob { stream: &job.0.0, members: members.each()?, values: values.slice_mut() })
        });
        let [signal, layer1, equity2, average, sign, equity1] =
            filled.each_ref().map(|array| array.as_ref().map(|array| array.slice_mut()));
        Advance {
            prices: Prices { close: close.slice(), source: source.slice(), n_symbols, n_bars },
            streams: streams.collect::<PyResult<_>>()?,
            bars: bars.slice_mut(),
            equities: equities.slice_mut(),
            outputs: Outputs { n_configs, signal, layer1, equity2, average, sign, equity1 },
        }
    };
    py.detach(|| call.run(level)).map_err(PyValueError::new_err)
}

/// One stream, its members and its values.
type Job<'py> = (PyRef<'py, Stream>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// Symbols followed bar by bar, from a state on.
#[pyclass(module = "atc_backtest.kernels._rust")]
struct Follower {
    inner: Box<dyn Follow>,
    symbols: usize,
    configs: usize,
}

#[pymethods]
impl Follower {
    #[new]
    #[pyo3(signature = (jobs, bars, equities, level="auto"))]
    fn new(
        jobs: Vec<Job<'_>>,
        bars: &Bound<'_, PyAny>,
        equities: &Bound<'_, PyAny>,
        level: &str,
    ) -> PyResult<Self> {
        let level = Level::from_name(level).map_err(PyValueError::new_err)?;
        let streams = jobs.iter().map(|job| Ok((job.0.0.clone(), followed(&job.1)?)));
        let streams = streams.collect::<PyResult<Vec<_>>>()?;
        let widths: Vec<usize> = streams.iter().map(|(stream, _)| stream.width()).collect();
        let values: Vec<_> = jobs.iter().map(|job| &job.2).collect();
        let (symbols, configs, inner) =
            with_state(&values, &widths, bars, equities, |parts| follow(streams, parts, level))?;
        Ok(Self { inner: inner.map_err(PyValueError::new_err)?, symbols, configs })
    }

    /// One bar of every symbol, NaN where there is none; -1, or the symbol whose price is refused.
    fn update(
        &mut self,
        py: Python<'_>,
        close: &Bound<'_, PyAny>,
        signal: &Bound<'_, PyAny>,
    ) -> PyResult<isize> {
        let close = Array::<f64>::of(close, "close", false)?;
        let signal = Array::<f64>::of(signal, "signal", true)?;
        let expected = (self.symbols, self.configs * self.symbols);
        if (close.slice().len(), signal.slice().len()) != expected {
            return Err(PyValueError::new_err(format!(
                "close and signal hold {} and {} values, not {} and {}.",
                close.slice().len(),
                signal.slice().len(),
                expected.0,
                expected.1
            )));
        }
        apart(vec![signal.bytes()], [close.bytes(), close.bytes()])?;
        // SAFETY: `apart` has shown that the two do not overlap.
        let (close, signal) = (close.slice(), unsafe { signal.slice_mut() });
        let inner = &mut self.inner;
        Ok(
            match if close.len() > 64 {
                py.detach(|| inner.update(close, signal))
            } else {
                inner.update(close, signal)
            } {
                Ok(()) => -1,
                Err(symbol) => symbol as isize,
            },
        )
    }

    /// One bar of one symbol; its signals by configuration. None where the price is refused.
    fn update_one(&mut self, symbol: usize, close: f64) -> PyResult<Option<Vec<f64>>> {
        if symbol >= self.symbols {
            return Err(PyValueError::new_err(format!("symbol {symbol} of {}.", self.symbols)));
        }
        let mut signal = vec![f64::NAN; self.configs];
        Ok(self.inner.update_one(symbol, close, &mut signal).ok().map(|()| signal))
    }

    /// Write the state to a state's arrays.
    fn store(
        &mut self,
        values: Vec<Bound<'_, PyAny>>,
        bars: &Bound<'_, PyAny>,
        equities: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let widths = self.inner.widths();
        with_state(&values.iter().collect::<Vec<_>>(), &widths, bars, equities, |parts| {
            self.inner.store(parts);
        })?;
        Ok(())
    }

    /// Bars seen of each symbol.
    fn bars(&self) -> Vec<i64> {
        self.inner.bars().to_vec()
    }

    /// Later growth tables: the members of every stream, as given first.
    fn grow(&mut self, members: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let members = members.iter().map(followed).collect::<PyResult<_>>()?;
        self.inner.grow(members).map_err(PyValueError::new_err)
    }
}

fn followed(members: &Bound<'_, PyAny>) -> PyResult<Vec<Followed>> {
    Ok(Members::of(members)?.each()?.into_iter().map(Member::into_owned).collect())
}

/// Do something with a state's arrays: its symbols, configurations, and what came of it.
fn with_state<T>(
    values: &[&Bound<'_, PyAny>],
    widths: &[usize],
    bars: &Bound<'_, PyAny>,
    equities: &Bound<'_, PyAny>,
    with: impl FnOnce(&mut Parts) -> T,
) -> PyResult<(usize, usize, T)> {
    let bars = Array::<i64>::of(bars, "bars", true)?;
    let equities = Array::<f64>::of(equities, "equities", true)?;
    let values: Vec<_> =
        values.iter().map(|array| Array::<f64>::of(array, "values", true)).collect::<PyResult<_>>()?;
    let written = values.iter().chain([&equities]).map(Array::bytes).chain([bars.bytes()]).collect();
    apart(written, [0..0, 0..0])?;
    let (symbols, configs) = (bars.slice().len(), equities.buffer.shape()[0]);
    let fits = values.iter().zip(widths).all(|(array, width)| array.slice().len() == width * symbols);
    if !fits || values.len() != widths.len() || equities.slice().len() != configs * EQUITY_SLOTS * symbols {
        return Err(PyValueError::new_err("values, bars and equities are not of one state."));
    }
    // SAFETY: `apart` has shown that no two of them overlap.
    let mut parts = unsafe {
        Parts {
            bars: bars.slice_mut(),
            values: values.iter().map(|array| array.slice_mut()).collect(),
            equities: equities.slice_mut(),
        }
    };
    Ok((symbols, configs, with(&mut parts)))
}

/// A C-contiguous array, held for the length of the call.
struct Array<T: Element> {
    buffer: PyBuffer<T>,
}

impl<T: Element> Array<T> {
    fn of(object: &Bound<'_, PyAny>, name: &str, written: bool) -> PyResult<Self> {
        let buffer = PyBuffer::<T>::get(object)?;
        if !buffer.is_c_contiguous() || buffer.dimensions() == 0 || (written && buffer.readonly()) {
            let kind = if written { "a writable, C-contiguous" } else { "a C-contiguous" };
            return Err(PyValueError::new_err(format!("{name} must be {kind} array.")));
        }
        Ok(Self { buffer })
    }

    fn bytes(&self) -> Range<usize> {
        let start = self.buffer.buf_ptr() as usize;
        start..start + self.buffer.len_bytes()
    }

    fn slice(&self) -> &[T] {
        if self.buffer.item_count() == 0 {
            return &[];
        }
        // SAFETY: contiguous, and alive as long as the buffer is held.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast(), self.buffer.item_count()) }
    }

    /// The caller has made sure that nothing else refers to this memory.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice_mut(&self) -> &mut [T] {
        if self.buffer.item_count() == 0 {
            return &mut [];
        }
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast(), self.buffer.item_count()) }
    }
}

/// An error unless every written array lies apart from all others.
fn apart(mut written: Vec<Range<usize>>, read: [Range<usize>; 2]) -> PyResult<()> {
    written.retain(|range| !range.is_empty());
    written.sort_by_key(|range| range.start);
    let overlap = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    if written.windows(2).any(|pair| overlap(&pair[0], &pair[1]))
        || written.iter().any(|w| read.iter().any(|r| overlap(w, r)))
    {
        return Err(PyValueError::new_err(
            "two of the arrays share memory: give state, prices and outputs arrays of their own.",
        ));
    }
    Ok(())
}

fn output(outputs: &Bound<'_, PyAny>, name: &str) -> PyResult<Option<Array<f64>>> {
    let array = outputs.getattr(name)?;
    if array.is_none() { Ok(None) } else { Array::of(&array, name, true).map(Some) }
}

/// `lowering.MemberConstants`, held.
struct Members {
    integers: [Array<i64>; 8],
    keep: Array<f64>,
    weights: Array<f64>,
    growth: Array<f64>,
}

impl Members {
    fn of(members: &Bound<'_, PyAny>) -> PyResult<Self> {
        let integer = |name: &str| Array::<i64>::of(&members.getattr(name)?, name, false);
        let real = |name: &str| Array::<f64>::of(&members.getattr(name)?, name, false);
        Ok(Self {
            integers: [
                integer("config")?,
                integer("layer1")?,
                integer("cutout")?,
                integer("up")?,
                integer("down")?,
                integer("growth_row")?,
                integer("growth_start")?,
                integer("growth_last")?,
            ],
            keep: real("keep")?,
            weights: real("weights")?,
            growth: real("growth")?,
        })
    }

    fn each(&self) -> PyResult<Vec<Member<'_>>> {
        let columns = self.integers.each_ref().map(Array::slice);
        let longest = self.growth.buffer.shape().get(1).copied().unwrap_or(0);
        (0..self.keep.slice().len())
            .map(|m| self.member(m, columns, longest))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                PyValueError::new_err("members: arrays of different sizes, or growth rows out of range.")
            })
    }

    fn member<'a>(&'a self, m: usize, columns: [&'a [i64]; 8], longest: usize) -> Option<Member<'a>> {
        let mut values = [0; 8];
        for (value, column) in values.iter_mut().zip(columns) {
            *value = *column.get(m)?;
        }
        let [config, layer1, cutout, up, down, row, growth_start, last] = values;
        let (row, last) = (usize::try_from(row).ok()?, usize::try_from(last).ok()?);
        Some(Member {
            config: usize::try_from(config).ok()?,
            layer1: usize::try_from(layer1).ok()?,
            cutout,
            keep: self.keep.slice()[m],
            weights: self.weights.slice().get(m * FAMILIES..(m + 1) * FAMILIES)?.try_into().ok()?,
            up: up as f64,
            down: down as f64,
            growth_start,
            growth: Cow::Borrowed(self.growth.slice().get(row * longest..(row + 1) * longest)?.get(..=last)?),
        })
    }
}

fn table<T: Element, U: Copy + Default>(
    of: &Bound<'_, PyAny>,
    name: &str,
    convert: impl Fn(T) -> U,
) -> PyResult<Table<U>> {
    let mut table = [[U::default(); LENGTHS]; FAMILIES];
    fill(table.as_flattened_mut(), of, name, convert)?;
    Ok(table)
}

fn nine<T: Element, U: Copy + Default>(
    of: &Bound<'_, PyAny>,
    name: &str,
    convert: impl Fn(T) -> U,
) -> PyResult<[U; LENGTHS]> {
    let mut nine = [U::default(); LENGTHS];
    fill(&mut nine, of, name, convert)?;
    Ok(nine)
}

fn fill<T: Element, U>(
    to: &mut [U],
    of: &Bound<'_, PyAny>,
    name: &str,
    convert: impl Fn(T) -> U,
) -> PyResult<()> {
    let array = Array::<T>::of(&of.getattr(name)?, name, false)?;
    if array.slice().len() != to.len() {
        let message = format!("{name} has {} values, not {}.", array.slice().len(), to.len());
        return Err(PyValueError::new_err(message));
    }
    for (to, from) in to.iter_mut().zip(array.slice()) {
        *to = convert(*from);
    }
    Ok(())
}
