// The GPU kernel: a warp a series, 32 bars at a time; protocol.py has the order of operations.
//
// Work goes in phases. In some a lane is a bar of the tile (windows, sums over nine equities), in others an average or
// an equity that goes through the tile's bars one after another. What a phase leaves behind lies in the warp's
// workspace, so no value is exchanged between lanes in any other way, and a lane's loop may as well be a loop over
// lanes: that is how a CPU runs this very file (HOST), and how tests compare it with the reference bit for bit.
//
// Compiled per robustness and profile (OFFSETS, PINE); lengths are data, so that a sweep over them compiles nothing.
// To be compiled without contraction to fused multiply-adds (--fmad=false, -ffp-contract=off).

#ifdef HOST
#include <cmath>
#include <cstring>
#define KERNEL extern "C" void
#define DEVICE static inline
#define LANES(i, n) for (int i = 0; i < (n); ++i)
#define SYNC()
#define RINT(v) std::nearbyint(v)
#define ABS(v) std::fabs(v)
#define NOT_A_NUMBER __builtin_nan("")
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(32)
#define DEVICE __device__ __forceinline__
#define LANES(i, n) for (int i = threadIdx.x; i < (n); i += 32)
#define SYNC() __syncwarp()
#define RINT(v) rint(v)
#define ABS(v) fabs(v)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000ULL)
#endif

typedef long long I64;

constexpr int TILE = 32;
constexpr int NINE = 9, FAMILIES = 6, AVERAGES = NINE * FAMILIES;
constexpr int EMA = 0, HMA = 1, WMA = 2, DEMA = 3, LSMA = 4, KAMA = 5;
constexpr int SLOTS = AVERAGES + 2 * FAMILIES;
constexpr double ABOVE = 1 - 1e-12, BELOW = 1 + 1e-12;
constexpr double KAMA_SPAN = 0.666 - 0.064, KAMA_SLOW = 0.064;
constexpr double FLOOR = 0.25, CEILING = 1e150;

// OFFSETS: o1, o2, o3, o4. The nine lengths by size, as indices into the summing order (L0, +o ascending, -o ascending).
constexpr int OFFSET[4] = {OFFSETS};
constexpr int ASCENDING[NINE] = {8, 7, 6, 5, 0, 1, 2, 3, 4};
constexpr int BEYOND[NINE] = {0,
                              OFFSET[3] - OFFSET[2],
                              OFFSET[3] - OFFSET[1],
                              OFFSET[3] - OFFSET[0],
                              OFFSET[3],
                              OFFSET[3] + OFFSET[0],
                              OFFSET[3] + OFFSET[1],
                              OFFSET[3] + OFFSET[2],
                              OFFSET[3] + OFFSET[3]};

// What a stream comes to; pointers to [6 x 9] by family and length in summing order, HMA's own to [9].
struct Stream {
    const double *alpha, *sma, *wma, *lsma_w, *lsma_s, *hma_half, *hma_smooth;
    const I64 *lengths, *first, *smooth;
    const I64 *shortest;   // [7] each family's shortest length, then the shortest half of HMA's
    const I64 *window;     // [7] which of `windows` that is
    const I64 *windows;    // [n_windows] distinct
    I64 n_windows, levels, history, y_rows;  // y_rows: longest smoothing - 1
    I64 y_slots;           // y values kept in the state
};

// The configurations that share it: [members], and [layers] distinct layers 1, each that of its leader.
struct Members {
    const I64 *config, *layer1, *leader, *cutout, *up, *down, *growth_row, *growth_start, *growth_last;
    const double *keep, *weights, *growth;
    I64 members, layers, growth_width;
};

// A block of prices and the outputs asked for (null: not), all [.., bars] with `stride` bars between rows.
struct Block {
    const double *close, *source;
    const I64 *bars;
    double *values, *equities;
    I64 symbols, n_bars;
    double *signal, *layer1, *equity2, *average, *sign, *equity1;
};

// The warp's workspace: doubles, then bytes.
struct Work {
    double *x, *change;                // [history + TILE]
    double *plain, *weighted, *noise;  // [levels][history + TILE], sums of 2, 4, .. values
    double *s, *w;                     // [n_windows][TILE]
    double *y;                         // [9][y_rows + TILE]
    double *close;                     // [1 + TILE], the one before the tile first
    double *returns, *up, *down;       // [TILE]
    double *kama;                      // [9][TILE] squares of KAMA's constants
    double *seed;                      // [9 x 2][TILE] what EMA and DEMA start from
    double *equity;                    // [27][TILE] three families
    double *q;                         // [layers][6][1 + TILE]
    double *vote;                      // [6][TILE] equities of layer 2
    I64 *at;                           // [TILE] places in the block of the tile's bars
    signed char *side;                 // [54][TILE]
    signed char *sign;                 // [54][1 + TILE]
};

DEVICE Work work_of(char *memory, const Stream &stream, I64 layers) {
    const I64 rows = stream.history + TILE;
    double *next = (double *)memory;
    Work work;
#define TAKE(name, count) work.name = next, next += (count)
    TAKE(x, rows);
    TAKE(change, rows);
    TAKE(plain, stream.levels * rows);
    TAKE(weighted, stream.levels * rows);
    TAKE(noise, stream.levels * rows);
    TAKE(s, stream.n_windows * TILE);
    TAKE(w, stream.n_windows * TILE);
    TAKE(y, NINE * (stream.y_rows + TILE));
    TAKE(close, 1 + TILE);
    TAKE(returns, TILE);
    TAKE(up, TILE);
    TAKE(down, TILE);
    TAKE(kama, NINE * TILE);
    TAKE(seed, 2 * NINE * TILE);
    TAKE(equity, 3 * NINE * TILE);
    TAKE(q, layers * FAMILIES * (1 + TILE));
    TAKE(vote, FAMILIES * TILE);
#undef TAKE
    work.at = (I64 *)next;
    work.side = (signed char *)(work.at + TILE);
    work.sign = work.side + AVERAGES * TILE;
    return work;
}

// Moves a row's values `by` places towards its beginning.
DEVICE void shift(double *row, I64 count, I64 by) {
#ifdef HOST
    std::memmove(row, row + by, count * sizeof(double));
#else
    for (I64 start = 0; start < count; start += 32) {
        const I64 i = start + threadIdx.x;
        const double value = i < count ? row[i + by] : 0.0;
        SYNC();
        if (i < count) row[i] = value;
        SYNC();
    }
#endif
}

// The places of up to TILE bars from `from` on that are there; how many.
DEVICE int present(const Block &block, I64 symbol, I64 from, Work &work) {
    const double *close = block.close + symbol * block.n_bars;
    const int n = (int)(block.n_bars - from < TILE ? block.n_bars - from : TILE);
#ifdef HOST
    int found = 0;
    for (int i = 0; i < n; ++i)
        if (close[from + i] == close[from + i]) work.at[found++] = from + i;
    return found;
#else
    const int i = threadIdx.x;
    const bool is_there = i < n && close[from + i] == close[from + i];
    const unsigned mask = __ballot_sync(0xffffffffu, is_there);
    if (is_there) work.at[__popc(mask & ((1u << i) - 1u))] = from + i;
    SYNC();
    return __popc(mask);
#endif
}

// Prices of the tile's n bars: x and its changes behind the history, closes, returns.
DEVICE void take_prices(const Stream &stream, const Block &block, I64 symbol, int n, Work &work) {
    const double *close = block.close + symbol * block.n_bars;
    const double *source = block.source + symbol * block.n_bars;
    LANES(i, n) {
        work.close[1 + i] = close[work.at[i]];
        work.x[stream.history + i] = source[work.at[i]];
    }
    SYNC();
    LANES(i, n) work.returns[i] = (work.close[1 + i] - work.close[i]) / work.close[i];
    for (I64 start = 1; start < stream.history + n; start += TILE)
        LANES(i, TILE) {
            const I64 row = start + i;
            if (row < stream.history + n) work.change[row] = ABS(work.x[row] - work.x[row - 1]);
        }
    SYNC();
}

// Sums of 2, 4, .. values, each from the level below; rows that reach before the history are never read.
DEVICE void double_sums(const Stream &stream, int n, Work &work) {
    const I64 rows = stream.history + TILE;
    for (I64 level = 0; level < stream.levels; ++level) {
        const I64 half = (I64)1 << level;
        const double *t = level ? work.plain + (level - 1) * rows : work.x;
        const double *w = level ? work.weighted + (level - 1) * rows : work.x;
        const double *c = level ? work.noise + (level - 1) * rows : work.change;
        for (I64 start = half; start < stream.history + n; start += TILE)
            LANES(i, TILE) {
                const I64 row = start + i;
                if (row < stream.history + n) {
                    const double now = t[row];
                    work.plain[level * rows + row] = now + t[row - half];
                    work.weighted[level * rows + row] = (w[row] + (double)half * now) + w[row - half];
                    work.noise[level * rows + row] = c[row] + c[row - half];
                }
            }
        SYNC();
    }
}

// S and W of the shortest windows, from their powers of two, newest first.
DEVICE void window_sums(const Stream &stream, int n, Work &work) {
    const I64 rows = stream.history + TILE;
    LANES(task, (int)stream.n_windows * TILE) {
        const int window = task / TILE, i = task % TILE;
        if (i < n) {
            const I64 length = stream.windows[window];
            I64 row = stream.history + i, rest = length;
            double s = 0.0, w = 0.0;
            for (int level = (int)stream.levels; level >= 0; --level) {
                const I64 power = (I64)1 << level;
                if (!(length & power)) continue;
                const double t = level ? work.plain[(level - 1) * rows + row] : work.x[row];
                double part = level ? work.weighted[(level - 1) * rows + row] : work.x[row];
                const bool is_newest = rest == length;
                rest -= power;
                if (rest) part = part + (double)rest * t;
                s = is_newest ? t : s + t;
                w = is_newest ? part : w + part;
                row -= power;
            }
            work.s[task] = s;
            work.w[task] = w;
        }
    }
    SYNC();
}

// Of a bar at t: where average j of a family stands to the close.
DEVICE void put_side(const Stream &stream, Work &work, int average, int i, I64 t, double value) {
    const double close = work.close[1 + i];
    const bool above = value < close * ABOVE, below = value > close * BELOW;
    const bool defined = t >= stream.first[average];
    work.side[average * TILE + i] = defined ? (above ? 1 : below ? -1 : 0) : 0;
}

DEVICE void put(double *output, const Members &members, const Block &block, I64 symbol, I64 per_symbol, I64 row,
                I64 at, double value) {
    if (output)
        for (I64 m = 0; m < members.members; ++m)
            output[((members.config[m] * block.symbols + symbol) * per_symbol + row) * block.n_bars + at] = value;
}

DEVICE void put_average(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                        int average, int i, I64 t, double value) {
    put_side(stream, work, average, i, t, value);
    put(block.average, members, block, symbol, AVERAGES, average, work.at[i],
        t >= stream.first[average] ? value : NOT_A_NUMBER);
}

// WMA and LSMA, and HMA of pine (an SMA): lanes are bars, each longer window by steps.
DEVICE void windowed(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                     int family, int n, I64 t0) {
    LANES(i, n) {
        const I64 oldest = stream.history + i - stream.shortest[family];
        double s = work.s[stream.window[family] * TILE + i], w = work.w[stream.window[family] * TILE + i];
        int done = 0;
        for (int k = 0; k < NINE; ++k) {
            for (; done < BEYOND[k]; ++done) {
                s = s + work.x[oldest - done];
                w = w + s;
            }
            const int average = family * NINE + ASCENDING[k];
            double value;
            if (family == LSMA)
                value = w * stream.lsma_w[average] - s * stream.lsma_s[average];
            else
                value = family == HMA ? s * stream.sma[average] : w * stream.wma[average];
            put_average(stream, members, block, work, symbol, average, i, t0 + i, value);
        }
    }
    SYNC();
}

// y = 2 WMA_h - WMA_L, then the WMA of its last values.
DEVICE void hma(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol, int n,
                I64 t0) {
    const I64 y_width = stream.y_rows + TILE;
    LANES(i, n) {
        const I64 oldest = stream.history + i - stream.shortest[HMA];
        const I64 half_oldest = stream.history + i - stream.shortest[6];
        double s = work.s[stream.window[HMA] * TILE + i], w = work.w[stream.window[HMA] * TILE + i];
        double hs = work.s[stream.window[6] * TILE + i], hw = work.w[stream.window[6] * TILE + i];
        int done = 0;
        I64 half_done = 0;
        for (int k = 0; k < NINE; ++k) {
            for (; done < BEYOND[k]; ++done) {
                s = s + work.x[oldest - done];
                w = w + s;
            }
            const int j = ASCENDING[k];
            const I64 half_beyond = stream.lengths[HMA * NINE + j] / 2 - stream.shortest[6];
            for (; half_done < half_beyond; ++half_done) {
                hs = hs + work.x[half_oldest - half_done];
                hw = hw + hs;
            }
            work.y[j * y_width + stream.y_rows + i] = hw * stream.hma_half[j] - w * stream.wma[HMA * NINE + j];
        }
    }
    SYNC();
    LANES(task, NINE * TILE) {
        const int j = task / TILE, i = task % TILE;
        if (i < n) {
            const double *y = work.y + j * y_width + stream.y_rows + i;
            double s = y[0], v = s;
            for (I64 lag = 1; lag < stream.smooth[j]; ++lag) {
                s = s + y[-lag];
                v = v + s;
            }
            put_average(stream, members, block, work, symbol, HMA * NINE + j, i, t0 + i, v * stream.hma_smooth[j]);
        }
    }
    SYNC();
}

// What the recursions need of each bar, side by side: seeds of EMA and DEMA, constants of KAMA.
DEVICE void prepare_recursions(const Stream &stream, Work &work, int n) {
    const I64 rows = stream.history + TILE;
    LANES(task, 3 * TILE) {
        const int which = task / TILE, i = task % TILE;
        if (i >= n) continue;
        const int family = which == 0 ? EMA : which == 1 ? DEMA : KAMA;
        const I64 now = stream.history + i, oldest = now - stream.shortest[family];
        int done = 0;
        if (which < 2) {
            double s = work.s[stream.window[family] * TILE + i];
            for (int k = 0; k < NINE; ++k) {
                for (; done < BEYOND[k]; ++done) s = s + work.x[oldest - done];
                const int j = ASCENDING[k];
                work.seed[(which * NINE + j) * TILE + i] = PINE ? work.x[now] : s * stream.sma[family * NINE + j];
            }
        } else {
            const I64 length = stream.shortest[KAMA];
            I64 row = now;
            bool is_newest = true;
            double noise = 0.0;
            for (int level = (int)stream.levels; level >= 0; --level) {
                const I64 power = (I64)1 << level;
                if (!(length & power)) continue;
                const double part = level ? work.noise[(level - 1) * rows + row] : work.change[row];
                noise = is_newest ? part : noise + part;
                is_newest = false;
                row -= power;
            }
            for (int k = 0; k < NINE; ++k) {
                for (; done < BEYOND[k]; ++done) noise = noise + work.change[oldest - done];
                const double move = ABS(work.x[now] - work.x[oldest - BEYOND[k]]);
                const double ratio = noise > 0.0 ? move / noise : 0.0;
                const double c = ratio * KAMA_SPAN + KAMA_SLOW;
                work.kama[ASCENDING[k] * TILE + i] = c * c;
            }
        }
    }
    SYNC();
}

// EMA, DEMA and KAMA: a lane an average, bar after bar. `recursive`: the state's slots, `symbols` apart.
DEVICE void recursions(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                       double *recursive, int n, I64 t0) {
    LANES(task, 3 * NINE) {
        const int which = task / NINE, j = task % NINE;
        const int family = which == 0 ? EMA : which == 1 ? DEMA : KAMA;
        const int average = family * NINE + j;
        const int slot = which == 0 ? j : which == 1 ? NINE + j : 3 * NINE + j;
        double *kept = recursive + slot * block.symbols, *second = kept + NINE * block.symbols;
        const double alpha = stream.alpha[average];
        const I64 first = stream.first[average], length = stream.lengths[average];
        double e = *kept, e2 = which == 1 ? *second : 0.0;
        for (int i = 0; i < n; ++i) {
            const I64 t = t0 + i;
            const double x = work.x[stream.history + i];
            double value;
            if (which == 2) {
                const double stepped = e + work.kama[j * TILE + i] * (x - e);
                const double held = PINE ? e : (t == 0 ? x : e);
                e = t >= length ? stepped : held;
                value = e;
            } else {
                const double seed = work.seed[(which * NINE + j) * TILE + i];
                const double stepped = e + alpha * (x - e);
                if (which == 1) {
                    const double stepped2 = e2 + alpha * (stepped - e2);
                    e2 = t > first ? stepped2 : (t == first ? seed : e2);
                }
                e = t > first ? stepped : (t == first ? seed : e);
                value = which == 1 ? 2.0 * e - e2 : e;
            }
            put_average(stream, members, block, work, symbol, average, i, t, value);
        }
        *kept = e;
        if (which == 1) *second = e2;
    }
    SYNC();
}

// Signals from sides: a lane an average. `sides`, `signs`: the state's slots.
DEVICE void signals(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                    double *sides, double *signs, int n, I64 t0) {
    LANES(average, AVERAGES) {
        int last = (int)sides[average * block.symbols], sign = (int)signs[average * block.symbols];
        const I64 first = stream.first[average];
        work.sign[average * (1 + TILE)] = (signed char)sign;
        for (int i = 0; i < n; ++i) {
            const int side = work.side[average * TILE + i];
            if (t0 + i > first && side != last && side != 0) sign = side;
            last = side;
            work.sign[average * (1 + TILE) + 1 + i] = (signed char)sign;
            put(block.sign, members, block, symbol, AVERAGES, average, work.at[i], (double)sign);
        }
        sides[average * block.symbols] = last;
        signs[average * block.symbols] = sign;
    }
    SYNC();
}

// What a long and a short equity is multiplied with, of member m.
DEVICE void factors(const Members &members, Work &work, I64 m, int n, I64 t0) {
    const double *growth = members.growth + members.growth_row[m] * members.growth_width;
    LANES(i, n) {
        I64 k = t0 + i - members.cutout[m] - members.growth_start[m];
        k = k < 0 ? 0 : k > members.growth_last[m] ? members.growth_last[m] : k;
        const double gain = work.returns[i] * growth[k];
        work.up[i] = members.keep[m] * (1.0 + gain);
        work.down[i] = members.keep[m] * (1.0 - gain);
    }
    SYNC();
}

DEVICE double stepped(double equity, double sign, double up, double down, double keep, I64 t, I64 cutout,
                      double start) {
    if (t < cutout) return NOT_A_NUMBER;
    if (t == cutout) return start;
    const double value = equity * (sign > 0.0 ? up : sign < 0.0 ? down : keep);
    const double floored = value > FLOOR ? value : FLOOR;
    return floored < CEILING ? floored : CEILING;
}

// Layer 1 of one distinct setting, three families at a time: equities by lanes, then their sums by bars.
DEVICE void layer1(const Members &members, const Block &block, Work &work, I64 symbol, I64 layer, int n, I64 t0) {
    const I64 m = members.leader[layer];
    const I64 cutout = members.cutout[m];
    const double keep = members.keep[m];
    double *kept = block.equities + (members.config[m] * SLOTS) * block.symbols + symbol;
    for (int half = 0; half < 2; ++half) {
        LANES(task, 3 * NINE) {
            const int average = half * 3 * NINE + task;
            const signed char *sign = work.sign + average * (1 + TILE);
            double e = kept[average * block.symbols];
            for (int i = 0; i < n; ++i) {
                e = stepped(e, sign[i], work.up[i], work.down[i], keep, t0 + i, cutout, 1.0);
                work.equity[task * TILE + i] = e;
            }
            kept[average * block.symbols] = e;
        }
        SYNC();
        LANES(task, 3 * TILE) {
            const int family = half * 3 + task / TILE, i = task % TILE;
            if (i >= n) continue;
            const double *e = work.equity + (task / TILE) * NINE * TILE + i;
            const signed char *sign = work.sign + family * NINE * (1 + TILE) + 1 + i;
            double num = (double)sign[0] * e[0], den = e[0];
            for (int j = 1; j < NINE; ++j) {
                num = num + (double)sign[j * (1 + TILE)] * e[j * TILE];
                den = den + e[j * TILE];
            }
            work.q[(layer * FAMILIES + family) * (1 + TILE) + 1 + i] = RINT(100.0 * (num / den));
        }
        SYNC();
        if (block.equity1) {
            LANES(task, 3 * NINE * TILE) {
                const int i = task % TILE;
                if (i < n)
                    for (I64 other = 0; other < members.members; ++other)
                        if (members.layer1[other] == layer)
                            block.equity1[((members.config[other] * block.symbols + symbol) * AVERAGES +
                                           half * 3 * NINE + task / TILE) * block.n_bars + work.at[i]] =
                                work.equity[task];
            }
            SYNC();
        }
    }
}

// Layer 2 and the final signal of member m.
DEVICE void layer2(const Members &members, const Block &block, Work &work, I64 symbol, I64 m, int n, I64 t0) {
    const I64 cutout = members.cutout[m], config = members.config[m];
    const double *q = work.q + members.layer1[m] * FAMILIES * (1 + TILE);
    double *kept = block.equities + (config * SLOTS + AVERAGES) * block.symbols + symbol;
    LANES(family, FAMILIES) {
        const double *own = q + family * (1 + TILE);
        const double start = members.weights[m * FAMILIES + family];
        double e = kept[family * block.symbols];
        for (int i = 0; i < n; ++i) {
            e = stepped(e, own[i], work.up[i], work.down[i], members.keep[m], t0 + i, cutout, start);
            work.vote[family * TILE + i] = e;
        }
        kept[family * block.symbols] = e;
        kept[(FAMILIES + family) * block.symbols] = own[n];
    }
    SYNC();
    const double up = (double)members.up[m], down = (double)members.down[m];
    LANES(i, n) {
        const I64 at = work.at[i];
        double num = 0.0, den = 0.0;
        for (int family = 0; family < FAMILIES; ++family) {
            const double now = q[family * (1 + TILE) + 1 + i], e = work.vote[family * TILE + i];
            const double vote = now > up ? 1.0 : now < down ? -1.0 : 0.0;
            num = family ? num + vote * e : vote * e;
            den = family ? den + e : e;
            const I64 row = ((config * block.symbols + symbol) * FAMILIES + family) * block.n_bars + at;
            if (block.layer1) block.layer1[row] = now / 100.0;
            if (block.equity2) block.equity2[row] = e;
        }
        if (block.signal) block.signal[(config * block.symbols + symbol) * block.n_bars + at] = num / den;
    }
    SYNC();
}

// The state's slots of a symbol, into the workspace and back.
DEVICE void load(const Stream &stream, const Members &members, const Block &block, Work &work, const double *state,
                 I64 symbol) {
    work.close[0] = state[0];
    LANES(i, (int)stream.history) work.x[i] = state[(1 + i) * block.symbols];
    if (!PINE) {
        LANES(j, NINE) {
            I64 slot = 1 + stream.history;
            for (int before = 0; before < j; ++before) slot += stream.smooth[before] - 1;
            double *y = work.y + j * (stream.y_rows + TILE) + stream.y_rows - (stream.smooth[j] - 1);
            for (I64 k = 0; k < stream.smooth[j] - 1; ++k) y[k] = state[(slot + k) * block.symbols];
        }
    }
    LANES(task, (int)members.layers * FAMILIES) {
        const I64 config = members.config[members.leader[task / FAMILIES]];
        const I64 slot = config * SLOTS + AVERAGES + FAMILIES + task % FAMILIES;
        work.q[task * (1 + TILE)] = block.equities[slot * block.symbols + symbol];
    }
    SYNC();
}

// Members that share a layer 1 each keep its equities.
DEVICE void store(const Stream &stream, const Members &members, const Block &block, Work &work, double *state,
                  I64 symbol) {
    for (I64 m = 0; m < members.members; ++m) {
        const I64 leader = members.leader[members.layer1[m]];
        if (leader == m) continue;
        LANES(average, AVERAGES) {
            const I64 from = (members.config[leader] * SLOTS + average) * block.symbols + symbol;
            block.equities[(members.config[m] * SLOTS + average) * block.symbols + symbol] = block.equities[from];
        }
    }
    LANES(i, (int)stream.history) state[(1 + i) * block.symbols] = work.x[i];
    if (!PINE) {
        LANES(j, NINE) {
            I64 slot = 1 + stream.history;
            for (int before = 0; before < j; ++before) slot += stream.smooth[before] - 1;
            const double *y = work.y + j * (stream.y_rows + TILE) + stream.y_rows - (stream.smooth[j] - 1);
            for (I64 k = 0; k < stream.smooth[j] - 1; ++k) state[(slot + k) * block.symbols] = y[k];
        }
    }
    LANES(i, 1) state[0] = work.close[0];
    SYNC();
}

// After n bars: histories, closes and last signals to where the next tile looks for them.
DEVICE void turn(const Stream &stream, const Members &members, Work &work, int n) {
    shift(work.x, stream.history, n);
    if (!PINE)
        for (int j = 0; j < NINE; ++j) shift(work.y + j * (stream.y_rows + TILE), stream.y_rows, n);
    LANES(i, 1) work.close[0] = work.close[n];
    LANES(task, (int)members.layers * FAMILIES) work.q[task * (1 + TILE)] = work.q[task * (1 + TILE) + n];
    SYNC();
}

DEVICE void advance_series(const Stream &stream, const Members &members, const Block &block, char *memory,
                           I64 symbol) {
    Work work = work_of(memory, stream, members.layers);
    double *state = block.values + symbol;
    double *recursive = state + (1 + stream.history + stream.y_slots) * block.symbols;
    double *sides = recursive + 4 * NINE * block.symbols, *signs = sides + AVERAGES * block.symbols;
    load(stream, members, block, work, state, symbol);
    I64 t = block.bars[symbol];
    for (I64 from = 0; from < block.n_bars; from += TILE) {
        const int n = present(block, symbol, from, work);
        if (n == 0) continue;
        take_prices(stream, block, symbol, n, work);
        double_sums(stream, n, work);
        window_sums(stream, n, work);
        prepare_recursions(stream, work, n);
        recursions(stream, members, block, work, symbol, recursive, n, t);
        if (PINE)
            windowed(stream, members, block, work, symbol, HMA, n, t);
        else
            hma(stream, members, block, work, symbol, n, t);
        windowed(stream, members, block, work, symbol, WMA, n, t);
        windowed(stream, members, block, work, symbol, LSMA, n, t);
        signals(stream, members, block, work, symbol, sides, signs, n, t);
        for (I64 layer = 0; layer < members.layers; ++layer) {
            factors(members, work, members.leader[layer], n, t);
            layer1(members, block, work, symbol, layer, n, t);
            for (I64 m = 0; m < members.members; ++m)
                if (members.layer1[m] == layer) layer2(members, block, work, symbol, m, n, t);
        }
        turn(stream, members, work, n);
        t += n;
    }
    store(stream, members, block, work, state, symbol);
}

// Every symbol of a block. The tables hold the fields of the structures above, eight bytes each, addresses included.
// `scratch`: room for a workspace of `work_bytes` a block of threads where it does not fit into shared memory.
KERNEL advance(const I64 *stream_table, const I64 *members_table, const I64 *block_table, char *scratch,
               I64 work_bytes) {
    const Stream stream = *(const Stream *)stream_table;
    const Members members = *(const Members *)members_table;
    const Block block = *(const Block *)block_table;
#ifdef HOST
    (void)work_bytes;
    for (I64 symbol = 0; symbol < block.symbols; ++symbol) advance_series(stream, members, block, scratch, symbol);
#else
    extern __shared__ __align__(8) char shared[];
    char *memory = scratch ? scratch + blockIdx.x * work_bytes : shared;
    for (I64 symbol = blockIdx.x; symbol < block.symbols; symbol += gridDim.x)
        advance_series(stream, members, block, memory, symbol);
#endif
}
