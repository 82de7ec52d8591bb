//! The windows that a two-dimensional convolution slides over its input: one row of a matrix product each.

use std::ops::Range;

use crate::onnx::NodeProto;

/// The geometry of a Conv of ONNX over `[N, C, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    padding: Padding,
    groups: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    /// Rows and columns of zeros before and after the input.
    Explicit { before: [usize; 2], after: [usize; 2] },
    /// As many outputs as `⌈input/stride⌉`, the odd zero after the input.
    SameUpper,
    /// The same with the odd zero before it.
    SameLower,
}

impl Windows {
    /// The windows of a Conv whose weight has the axes `[M, C/groups, kh, kw]`; else why it has none.
    pub fn of(node: &NodeProto, weight: &[usize]) -> Result<Self, String> {
        let &[m, channels, kh, kw] = weight else {
            return Err(format!("the weight of this Conv has {} axes", weight.len()));
        };
        let kernel = [kh, kw];
        let ints = |name: &str| node.attr_ints(name).filter(|ints| !ints.is_empty());
        let pair = |name: &str| match ints(name) {
            None => Ok([1, 1]),
            Some(&[y, x]) if y > 0 && x > 0 && y.max(x) <= i32::MAX.into() => Ok([y as usize, x as usize]),
            Some(other) => Err(format!("this Conv has {name} {other:?}")),
        };
        let (strides, dilations) = (pair("strides")?, pair("dilations")?);
        if ints("kernel_shape").is_some_and(|shape| shape != kernel.map(|k| k as i64)) {
            return Err("the kernel_shape of this Conv is not that of its weight".into());
        }
        let groups = node.attr_int("group").unwrap_or(1);
        let groups = usize::try_from(groups).ok().filter(|&g| g > 0 && m.is_multiple_of(g));
        let groups = groups.ok_or("the groups of this Conv do not divide its output channels")?;
        let padding = match node.attr_str("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => match ints("pads").unwrap_or(&[0; 4]) {
                pads @ &[top, left, bottom, right]
                    if pads.iter().all(|p| (0..=i32::MAX.into()).contains(p)) =>
                {
                    let [top, left, bottom, right] = [top, left, bottom, right].map(|p| p as usize);
                    Padding::Explicit { before: [top, left], after: [bottom, right] }
                }
                pads => return Err(format!("this Conv has pads {pads:?}")),
            },
            "VALID" => Padding::Explicit { before: [0; 2], after: [0; 2] },
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            other => return Err(format!("this Conv has auto_pad `{other}`")),
        };
        if m == 0 || channels == 0 || kh == 0 || kw == 0 {
            return Err("the weight of this Conv is empty".into());
        }
        Ok(Self { kernel, strides, dilations, padding, groups })
    }

    /// The number of groups: output channels of one see the input channels of one.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether each output sees one pixel: a linear layer over the channels.
    pub fn are_pixels(&self) -> bool {
        self.kernel == [1, 1] && self.are_patches()
    }

    /// Whether they lie side by side: each pixel is in one at most.
    pub fn are_patches(&self) -> bool {
        const NONE: Padding = Padding::Explicit { before: [0; 2], after: [0; 2] };
        self.strides == self.kernel && self.dilations == [1, 1] && self.padding == NONE && self.groups == 1
    }

    /// The number of elements of one window of an input of `channels`, within one group.
    pub fn depth(&self, channels: usize) -> usize {
        channels / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// How many windows fit along both axes of an input of `size`; `None` if one axis is shorter than a window.
    pub fn counts(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let of_axis = |axis: usize| match self.padding {
            Padding::Explicit { before, after } => {
                let padded = size[axis] + before[axis] + after[axis];
                Some(padded.checked_sub(self.reach(axis))? / self.strides[axis] + 1)
            }
            Padding::SameUpper | Padding::SameLower => Some(size[axis].div_ceil(self.strides[axis])),
        };
        Some([of_axis(0)?, of_axis(1)?])
    }

    /// Calls `run(target, source, len)` for every run of a window's elements that lies in the input: `len` elements from
    /// `source` on, in an input of `[H, W]`, belong at `target` in a window of `[kh, kw]`. The rest of a window is zero.
    pub fn runs(&self, size: [usize; 2], position: [usize; 2], mut run: impl FnMut(usize, usize, usize)) {
        let [kh, kw] = self.kernel;
        for ky in 0..kh {
            let Some(y) = self.source(0, size, position, ky) else { continue };
            if self.dilations[1] == 1 {
                let columns = self.columns(size, position);
                if let Some(x) = self.source(1, size, position, columns.start).filter(|_| !columns.is_empty())
                {
                    run(ky * kw + columns.start, y * size[1] + x, columns.len());
                }
            } else {
                for kx in 0..kw {
                    if let Some(x) = self.source(1, size, position, kx) {
                        run(ky * kw + kx, y * size[1] + x, 1);
                    }
                }
            }
        }
    }

    /// The columns of a window without dilation that lie in the input.
    fn columns(&self, size: [usize; 2], position: [usize; 2]) -> Range<usize> {
        let start = position[1] * self.strides[1];
        let before = self.before(1, size);
        let inside = |x: usize| x.saturating_sub(start).min(self.kernel[1]);
        inside(before)..inside(before + size[1])
    }

    /// Where element `k` of the window at `position` lies along `axis`; `None` in the padding.
    fn source(&self, axis: usize, size: [usize; 2], position: [usize; 2], k: usize) -> Option<usize> {
        let padded = position[axis] * self.strides[axis] + k * self.dilations[axis];
        padded.checked_sub(self.before(axis, size)).filter(|&at| at < size[axis])
    }

    /// How many zeros come before the input along `axis`.
    fn before(&self, axis: usize, size: [usize; 2]) -> usize {
        let total = || {
            let windows = size[axis].div_ceil(self.strides[axis]);
            (windows.saturating_sub(1) * self.strides[axis] + self.reach(axis)).saturating_sub(size[axis])
        };
        match self.padding {
            Padding::Explicit { before, .. } => before[axis],
            Padding::SameUpper => total() / 2,
            Padding::SameLower => total().div_ceil(2),
        }
    }

    /// How far a window reaches along `axis`.
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::AttributeProto;
    use crate::onnx::node::node;

    fn windows(kernel: [usize; 2], attributes: &[(&str, &[i64])]) -> Result<Windows, String> {
        let conv = attributes.iter().fold(node("Conv", "c", ["x", "w"], ["y"]), |node, (name, ints)| {
            node.with(AttributeProto::int_list(name, ints))
        });
        Windows::of(&conv, &[2, 1, kernel[0], kernel[1]])
    }

    /// The window at `position` of an input whose elements are 1, 2, …
    fn window(windows: Windows, size: [usize; 2], position: [usize; 2]) -> Vec<usize> {
        let mut found = vec![0; windows.depth(1)];
        windows.runs(size, position, |target, source, len| {
            found[target..][..len].iter_mut().zip(source + 1..).for_each(|(found, x)| *found = x);
        });
        found
    }

    #[test]
    fn padding_is_zero_and_strides_skip() {
        let conv = windows([3, 3], &[("pads", &[1, 1, 1, 1]), ("strides", &[2, 2])]).unwrap();
        assert_eq!(conv.counts([4, 5]), Some([2, 3]));
        assert_eq!(window(conv, [4, 5], [0, 0]), [0, 0, 0, 0, 1, 2, 0, 6, 7]);
        assert_eq!(window(conv, [4, 5], [1, 2]), [9, 10, 0, 14, 15, 0, 19, 20, 0]);
    }

    #[test]
    fn dilations_leave_gaps() {
        let conv = windows([2, 2], &[("dilations", &[2, 3])]).unwrap();
        assert_eq!(conv.counts([3, 4]), Some([1, 1]));
        assert_eq!(window(conv, [3, 4], [0, 0]), [1, 4, 9, 12]);
        assert_eq!(conv.counts([2, 4]), None);
    }

    #[test]
    fn the_same_size_has_its_odd_zero_after_or_before() {
        let conv = |auto_pad: &str| {
            let node = node("Conv", "c", ["x", "w"], ["y"]);
            Windows::of(&node.with(AttributeProto::string("auto_pad", auto_pad)), &[2, 1, 1, 2]).unwrap()
        };
        assert_eq!(conv("SAME_UPPER").counts([1, 3]), Some([1, 3]));
        assert_eq!(window(conv("SAME_UPPER"), [1, 3], [0, 2]), [3, 0]);
        assert_eq!(window(conv("SAME_LOWER"), [1, 3], [0, 0]), [0, 1]);
        assert_eq!(conv("VALID").counts([1, 3]), Some([1, 2]));
    }

    #[test]
    fn patches_lie_side_by_side() {
        assert!(windows([2, 2], &[("strides", &[2, 2])]).unwrap().are_patches());
        assert!(!windows([2, 2], &[]).unwrap().are_patches());
        assert!(!windows([2, 2], &[("strides", &[2, 2]), ("pads", &[0, 0, 1, 1])]).unwrap().are_patches());
        assert!(windows([1, 1], &[]).unwrap().are_pixels());
        assert!(!windows([1, 1], &[("strides", &[2, 2])]).unwrap().are_pixels());
    }

    #[test]
    fn nonsense_has_no_windows() {
        for (name, ints) in [
            ("strides", &[0, 1][..]),
            ("dilations", &[1]),
            ("pads", &[-1, 0, 0, 0]),
            ("kernel_shape", &[3, 3]),
        ] {
            assert!(windows([2, 2], &[(name, ints)]).is_err(), "{name} {ints:?}");
        }
    }
}
