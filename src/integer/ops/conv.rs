//! A convolution that cuts `x[N, C, H, W]` into patches, as a linear layer on them.

use tract_core::internal::*;

use super::linear::Linear;

pub(super) struct Conv {
    patches: Linear,
    kernel: [usize; 2],
    bias: Option<Vec<f32>>,
}

impl Conv {
    pub(super) fn new(patches: Linear, kernel: [usize; 2], bias: Option<Vec<f32>>) -> Self {
        Self { patches, kernel, bias }
    }

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        let [n, c, h, w] = x else { bail!("a Conv of {x:?}") };
        let [kh, kw] = self.kernel;
        ensure!(*c == (self.patches.k() / (kh * kw)).to_dim(), "a Conv of {c} channels");
        Ok(tvec!(n.clone(), self.patches.n().to_dim(), h.clone() / kh, w.clone() / kw))
    }

    pub(super) fn eval(&self, x: &Tensor) -> TractResult<Tensor> {
        let [n, _, h, w] = *x.shape() else { bail!("a Conv of {:?}", x.shape()) };
        let shape = [n, self.patches.n(), h / self.kernel[0], w / self.kernel[1]];
        let size: usize = x.shape()[1..].iter().product();
        let mut out = Vec::with_capacity(shape.iter().product());
        let plain = x.try_as_plain_ram()?;
        if size > 0 {
            for image in plain.as_slice::<f32>()?.chunks_exact(size) {
                self.image(image, [h, w], &mut out)?;
            }
        }
        Ok(tract_ndarray::Array4::from_shape_vec(shape, out)?.into_tensor())
    }

    /// Appends the result `[M, H/kh, W/kw]` for one image `[C, h, w]`.
    fn image(&self, x: &[f32], [h, w]: [usize; 2], out: &mut Vec<f32>) -> TractResult<()> {
        let [kh, kw] = self.kernel;
        let [rows, columns] = [h / kh, w / kw];
        let mut patches = Vec::with_capacity(rows * columns * self.patches.k());
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            for channel in x.chunks_exact(h * w) {
                for line in channel.chunks_exact(w).skip(row * kh).take(kh) {
                    patches.extend_from_slice(&line[column * kw..][..kw]);
                }
            }
        }
        let n = self.patches.n();
        let product = self.patches.apply(&[rows * columns, n], &patches, None)?;
        let product = product.try_as_plain_ram()?;
        let product = product.as_slice::<f32>()?;
        for m in 0..n {
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[m]);
            out.extend(product.chunks_exact(n).map(|patch| patch[m] + bias));
        }
        Ok(())
    }
}
