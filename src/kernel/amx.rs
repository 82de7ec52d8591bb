//! `tdpbssd` of AMX: 16 × 16 sums over 64 products each in one instruction, 32 rows × 32 columns in tiles.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use super::packed::{ByteLayout, PANEL, Quad};
use super::{
    ByteLhs, Bytes, Columns, Kernel, PackedB, PackedTarget, Rows, Scaling, Sums, Vnni, check_byte_panels,
    errors,
};

/// Rows of a tile of A and of C.
const ROWS: usize = 16;

/// Codes of a row of a tile of A; the rows of B that a tile of B holds.
const DEPTH: usize = 64;

/// A proof that this CPU has AMX for bytes, and that the operating system lets this process use it. What AMX does not
/// do is left to AVX-512.
pub(super) struct Amx(Vnni);

impl Amx {
    /// `None` on a CPU without AMX, and where the operating system does not grant it.
    pub(super) fn new() -> Option<Self> {
        Vnni::new().filter(|_| has_tiles() && is_granted()).map(Self)
    }
}

impl Kernel for Amx {
    fn name(&self) -> &'static str {
        "amx-int8"
    }

    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
        self.0.panel(a, b, panel, c);
    }

    /// The tiles are loaded whole: what pads a row of A is zero, and so it does not matter what follows in B.
    fn byte_layout(&self) -> Option<ByteLayout> {
        Some(ByteLayout { offset: 0, rows: ROWS, columns: DEPTH })
    }

    fn byte_panels(&self, a: &Bytes, b: &PackedB, first: usize, c: &mut [[i32; PANEL]]) {
        check_byte_panels(a, b, first, c);
        assert_eq!(Some(a.layout()), self.byte_layout(), "A must have the layout of this kernel");
        if a.is_empty() || b.k() == 0 {
            return c.fill([0; PANEL]);
        }
        let config = Config::new();
        // SAFETY: `self` exists only where AMX may be used, and `config` is a valid one, of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack)) };
        let mut panels = (first..).zip(c.chunks_exact_mut(a.padded_len()));
        while let Some((left, c_left)) = panels.next() {
            // At the last of an odd number of panels, the same sums are computed and stored twice.
            let (right, c_right) = match panels.next() {
                Some((right, c_right)) => (right, c_right.as_mut_ptr()),
                None => (left, c_left.as_mut_ptr()),
            };
            // SAFETY: AMX is configured; both panels are in `b`, and both results have `padded_len` rows.
            unsafe { two_panels(a, [b.tiles(left), b.tiles(right)], [c_left.as_mut_ptr(), c_right]) };
        }
        // SAFETY: as above. Tiles that are in use would have to be saved whenever the thread is interrupted.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }

    fn errors(&self, a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        self.0.errors(a, b, scale, target, sums);
    }

    fn byte_errors(&self, a: &ByteLhs, b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        errors::of_bytes(self, &self.0, a, b, scale, target, sums);
    }

    fn scale(&self, sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
        self.0.scale(sums, scaling, addends, to);
    }

    fn softmax(&self, row: &mut [f32]) -> bool {
        self.0.softmax(row)
    }
}

/// What `ldtilecfg` reads: all tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    fn new() -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_row: [0; 16], rows: [0; 16] };
        config.bytes_of_row[..8].fill(DEPTH as u16);
        config.rows[..8].fill(ROWS as u8);
        config
    }
}

/// All rows of A times two panels.
///
/// # Safety
/// AMX is configured by [`Config`]; `b` holds as many tiles as a row of A has; each of `c` points to `a.padded_len()`
/// rows.
unsafe fn two_panels(a: &Bytes, b: [&[Quad]; 2], c: [*mut [i32; PANEL]; 2]) {
    let steps = a.stride() / DEPTH;
    assert!(steps > 0 && b.iter().all(|b| b.len() >= steps * DEPTH / 4));
    let b = b.map(<[Quad]>::as_ptr);
    let tiles = a.padded_len() / ROWS;
    for tile in (0..tiles).step_by(2) {
        let a = a.rows(tile * ROWS..).as_ptr();
        // SAFETY: A has `padded_len` rows of `stride` bytes, of which 32 or, at the last tile, 16 are used here; the
        // caller vouches for the rest.
        unsafe {
            let c = c.map(|c| c.add(tile * ROWS));
            if tile + 1 < tiles { rows_32(a, steps, b, c) } else { rows_16(a, steps, b, c) }
        }
    }
}

/// 32 rows of A, of `steps` times 64 bytes, times two panels.
///
/// # Safety
/// AMX is configured; A, B and C have at least what is read and written.
unsafe fn rows_32(a: *const i8, steps: usize, b: [*const Quad; 2], c: [*mut [i32; PANEL]; 2]) {
    let stride = steps * DEPTH;
    // SAFETY: the caller's; the upper rows of A begin 16 rows after the lower ones, those of C 1024 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {stride}]",
            "tileloadd tmm6, [{left} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {line}]",
            "tdpbssd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{upper} + {stride}]",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {upper}, 64",
            "add {left}, 1024",
            "add {right}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c_left} + {line}], tmm0",
            "tilestored [{c_right} + {line}], tmm1",
            "tilestored [{c_left} + {line} + 1024], tmm2",
            "tilestored [{c_right} + {line} + 1024], tmm3",
            a = inout(reg) a => _,
            upper = inout(reg) a.add(ROWS * stride) => _,
            stride = in(reg) stride,
            left = inout(reg) b[0] => _,
            right = inout(reg) b[1] => _,
            line = in(reg) 64usize,
            steps = inout(reg) steps => _,
            c_left = in(reg) c[0],
            c_right = in(reg) c[1],
            options(nostack),
        );
    }
}

/// As [`rows_32`], for 16 rows.
///
/// # Safety
/// AMX is configured; A, B and C have at least what is read and written.
unsafe fn rows_16(a: *const i8, steps: usize, b: [*const Quad; 2], c: [*mut [i32; PANEL]; 2]) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {stride}]",
            "tileloadd tmm6, [{left} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {line}]",
            "tdpbssd tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {left}, 1024",
            "add {right}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c_left} + {line}], tmm0",
            "tilestored [{c_right} + {line}], tmm1",
            a = inout(reg) a => _,
            stride = in(reg) steps * DEPTH,
            left = inout(reg) b[0] => _,
            right = inout(reg) b[1] => _,
            line = in(reg) 64usize,
            steps = inout(reg) steps => _,
            c_left = in(reg) c[0],
            c_right = in(reg) c[1],
            options(nostack),
        );
    }
}

/// Whether the CPU has tiles, and `tdpbssd`.
pub(super) fn has_tiles() -> bool {
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & (TILE | INT8) == TILE | INT8
}

/// Asks Linux to let this process, with all its threads, use tiles.
#[cfg(target_os = "linux")]
fn is_granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: this call of the system reads and writes no memory; an old kernel refuses it.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Elsewhere nobody has tried it.
#[cfg(not(target_os = "linux"))]
fn is_granted() -> bool {
    false
}
