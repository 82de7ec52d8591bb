//! Weights of fewer than 7 bits, several codes to one word of 32 bits, and the standard nodes that take them apart.
//!
//! A code q of k bits is stored as the digit `q + 2^(k−1)` to the base `2^k`; a word has `⌊32/k⌋` digits, and digit j of
//! word l is element `j·L + l` of the weight, where L is the number of words. Runtimes that fold constants, such as ONNX
//! Runtime and `OpenVINO`, compute the INT8 weight once, when they load the file.

use super::node::node;
use super::proto::{AttributeProto, NodeProto, TensorProto};
use super::{DOMAIN, DataType, Edits, Graph, NodeId, tensor};
use crate::error::{Error, Result};

/// Smaller weights stay INT8: the constants of their unpacking would outweigh the gain.
const FEWEST: usize = 512;

/// How the digits of a word are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digits {
    bits: usize,
}

impl Digits {
    /// The narrowest that hold `codes`, if a word has room for more than four of them.
    fn of(codes: &[i64]) -> Option<Self> {
        let holds =
            |bits: &usize| codes.iter().all(|&code| (-(1 << (bits - 1))..1 << (bits - 1)).contains(&code));
        (2..=6).find(holds).map(|bits| Self { bits })
    }

    fn base(self) -> i64 {
        1 << self.bits
    }

    fn half(self) -> i64 {
        self.base() / 2
    }

    fn in_a_word(self) -> usize {
        32 / self.bits
    }

    /// `[digits, 1]`: what a word is divided by to bring each digit to the front.
    fn divisors(self) -> Vec<i64> {
        (0..self.in_a_word()).map(|digit| 1 << (self.bits * digit)).collect()
    }

    fn pack(self, codes: &[i64]) -> Vec<u32> {
        let words = codes.len().div_ceil(self.in_a_word());
        let digits = |word: usize| codes.iter().skip(word).step_by(words).enumerate();
        let of_word = |word| {
            digits(word).fold(0, |sum, (digit, code)| sum | (code + self.half()) << (self.bits * digit))
        };
        (0..words).map(|word| of_word(word) as u32).collect()
    }

    fn unpack(self, words: &[u32], count: usize) -> Vec<i8> {
        let digit = |digit: usize, word: u32| i64::from(word) >> (self.bits * digit) & (self.base() - 1);
        let codes =
            (0..self.in_a_word()).flat_map(|j| words.iter().map(move |&word| digit(j, word) - self.half()));
        codes.take(count).map(|code| code as i8).collect()
    }
}

/// Packs the weights of a quantized model that have fewer than 7 bits; `None` if there are none.
pub(crate) fn pack(graph: &Graph) -> Result<Option<Edits>> {
    let mut edits = Edits::new(graph.model());
    let mut any = false;
    for weight in &graph.model().graph().initializer {
        let is_codes = weight.data_type() == i32::from(DataType::Int8);
        if !is_codes || weight.dims.len() < 2 || tensor::len(weight) < FEWEST {
            continue;
        }
        let takers = graph.consumers(weight.name());
        let takes_codes = |id: NodeId| {
            let node = graph.node(id);
            node.is_op("DequantizeLinear") || node.domain() == DOMAIN
        };
        let Some(first) = takers.iter().map(|taker| taker.node).min_by_key(|id| id.0) else { continue };
        let codes = tensor::i64s(weight)?;
        let Some(digits) = Digits::of(&codes).filter(|_| takers.iter().all(|taker| takes_codes(taker.node)))
        else {
            continue;
        };
        let (nodes, unpacked) = unpacking(&mut edits, weight, digits, &codes);
        edits.insert_before(first, nodes);
        for taker in takers {
            edits.set_input(taker.node, taker.input, unpacked.clone());
        }
        any = true;
    }
    Ok(any.then_some(edits))
}

/// Nodes of which each takes the output of the one before.
struct Chain<'e> {
    edits: &'e mut Edits,
    prefix: String,
    nodes: Vec<NodeProto>,
    last: String,
}

impl Chain<'_> {
    fn ints(&mut self, part: &str, dims: &[usize], values: &[i64]) -> String {
        let name = self.edits.fresh(&format!("{}_{part}", self.prefix));
        self.edits.add_initializer(tensor::from_i64(&name, dims, values));
        name
    }

    fn then(&mut self, op: &str, operands: &[&str]) {
        let output = self.edits.fresh(&format!("{}_{}", self.prefix, op.to_lowercase()));
        let inputs = [&[self.last.as_str()], operands].concat();
        self.nodes.push(node(op, &output, inputs, [output.as_str()]));
        self.last = output;
    }

    fn cast(&mut self, to: DataType) {
        self.then("Cast", &[]);
        let cast = self.nodes.last_mut().expect("a Cast was just added");
        cast.attribute.push(AttributeProto::int("to", i32::from(to).into()));
    }
}

/// The nodes that take the packed `weight` apart, and their result.
fn unpacking(
    edits: &mut Edits,
    weight: &TensorProto,
    digits: Digits,
    codes: &[i64],
) -> (Vec<NodeProto>, String) {
    let words = digits.pack(codes);
    let packed = edits.fresh(&format!("{}_packed", weight.name()));
    let raw = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    edits.add_initializer(tensor::from_raw(&packed, DataType::Uint32, &[1, words.len()], raw));
    let mut chain = Chain { edits, prefix: weight.name().into(), nodes: Vec::new(), last: packed };
    let divisors = chain.ints("divisors", &[digits.in_a_word(), 1], &digits.divisors());
    let base = chain.ints("base", &[], &[digits.base()]);
    let half = chain.ints("half", &[], &[digits.half()]);
    let flat = chain.ints("flat", &[1], &[-1]);
    let start = chain.ints("start", &[1], &[0]);
    let end = chain.ints("end", &[1], &[codes.len() as i64]);
    let dims = chain.ints("dims", &[weight.dims.len()], &weight.dims);
    chain.cast(DataType::Int64);
    chain.then("Div", &[&divisors]);
    chain.then("Mod", &[&base]);
    chain.then("Sub", &[&half]);
    chain.then("Reshape", &[&flat]);
    chain.then("Slice", &[&start, &end]);
    chain.then("Reshape", &[&dims]);
    chain.cast(DataType::Int8);
    (chain.nodes, chain.last)
}

/// Puts INT8 constants in the place of packed weights; `None` if there are none.
pub(crate) fn unpack(graph: &Graph) -> Result<Option<Edits>> {
    let mut edits = Edits::new(graph.model());
    let mut any = false;
    for (_, cast) in graph.nodes().filter(|(_, node)| node.is_op("Cast")) {
        let Some(packed) = Packed::behind(graph, cast) else { continue };
        let weight = packed.unpacked().map_err(|why| Error::model(cast.label(), why))?;
        let name = edits.fresh(&format!("{}_unpacked", cast.output[0]));
        edits.add_initializer(tensor::from_i8(&name, &packed.dims, &weight));
        for taker in graph.consumers(&cast.output[0]) {
            edits.set_input(taker.node, taker.input, name.clone());
        }
        any = true;
    }
    Ok(any.then_some(edits))
}

/// What a chain of nodes like ours is made of.
struct Packed {
    words: Vec<u32>,
    divisors: Vec<i64>,
    base: i64,
    half: i64,
    count: usize,
    dims: Vec<usize>,
    most: usize,
}

impl Packed {
    /// The packed weight whose last node is `cast`; `None` if it is no such chain.
    fn behind(graph: &Graph, cast: &NodeProto) -> Option<Self> {
        let to = |node: &NodeProto| node.attr_int("to").and_then(|to| i32::try_from(to).ok());
        (to(cast)? == i32::from(DataType::Int8)).then_some(())?;
        let before = |node: &NodeProto, op: &str| {
            let node = graph.node(graph.producer(node.operand(0)?)?);
            (node.is_standard() && node.is_op(op)).then_some(node)
        };
        let ints = |node: &NodeProto, at: usize| tensor::i64s(graph.constant(node.operand(at)?)?).ok();
        let int = |node: &NodeProto, at: usize| match ints(node, at)?[..] {
            [value] => Some(value),
            _ => None,
        };
        let shaped = before(cast, "Reshape")?;
        let cut = before(shaped, "Slice")?;
        let flat = before(cut, "Reshape")?;
        let sub = before(flat, "Sub")?;
        let modulo = before(sub, "Mod")?;
        let div = before(modulo, "Div")?;
        let wide = before(div, "Cast")?;
        let words = graph.constant(wide.operand(0)?)?;
        let fits = to(wide)? == i32::from(DataType::Int64)
            && int(flat, 1)? == -1
            && int(cut, 1)? == 0
            && cut.input.len() == 3
            && words.data_type() == i32::from(DataType::Uint32)
            && words.dims.len() == 2
            && words.dims[0] == 1;
        let dims = ints(shaped, 1)?.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
        fits.then_some(Self {
            words: tensor::i64s(words).ok()?.iter().map(|&word| word as u32).collect(),
            divisors: ints(div, 1)?,
            base: int(modulo, 1)?,
            half: int(sub, 1)?,
            count: usize::try_from(int(cut, 2)?).ok()?,
            dims,
            most: graph.model().limits.tensor_bytes,
        })
    }

    fn unpacked(&self) -> std::result::Result<Vec<i8>, String> {
        let digits = (2..=6).map(|bits| Digits { bits }).find(|digits| digits.base() == self.base);
        let digits = digits.filter(|digits| digits.half() == self.half && digits.divisors() == self.divisors);
        let digits = digits.ok_or("does not take its words apart into digits")?;
        let count = self.dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let has = self.words.len().saturating_mul(digits.in_a_word());
        if count != Some(self.count) || self.count > has {
            return Err(format!("makes {} codes of shape {:?} out of {has}", self.count, self.dims));
        }
        if self.count > self.most {
            return Err(format!("makes {} codes, more than the {} that are allowed", self.count, self.most));
        }
        Ok(digits.unpack(&self.words, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{graph as graph_of, model};
    use super::*;

    /// `y = x · DequantizeLinear(w)`, with the codes of a weight `[K, N]`.
    fn quantized(dims: [usize; 2], codes: &[i8]) -> Graph {
        let nodes = vec![
            node("DequantizeLinear", "dq", ["w", "s"], ["W"]),
            node("DequantizeLinear", "dq2", ["w", "s"], ["V"]),
            node("MatMul", "mm", ["x", "W"], ["z"]),
            node("MatMul", "mm2", ["z", "V"], ["y"]),
        ];
        let initializers = vec![tensor::from_i8("w", &dims, codes), tensor::from_f32("s", &[], &[0.5])];
        Graph::new(model(graph_of("x", "y", nodes, initializers), 13)).unwrap()
    }

    fn edited(graph: &Graph, edits: Option<Edits>) -> Graph {
        let mut model = graph.model().clone();
        edits.expect("there is something to do").apply(&mut model).unwrap();
        Graph::new(model).unwrap()
    }

    /// Codes of `bits` bits, both ends among them.
    fn codes(count: usize, bits: u32) -> Vec<i8> {
        let base = 1usize << bits;
        (0..count).map(|i| ((i * 7 + i / 5) % base) as i8 - (base / 2) as i8).collect()
    }

    #[test]
    fn packed_weights_come_back() {
        for (bits, in_a_word) in [(2, 16), (3, 10), (4, 8), (5, 6), (6, 5)] {
            for dims in [[32, 32], [31, 37]] {
                let codes = codes(dims[0] * dims[1], bits);
                let plain = quantized(dims, &codes);
                let packed = edited(&plain, pack(&plain).unwrap());
                let words = packed.model().graph().initializer.iter();
                let words: Vec<_> = words.filter(|t| t.data_type() == i32::from(DataType::Uint32)).collect();
                assert_eq!(words.len(), 1, "both nodes share it");
                assert_eq!(words[0].dims, [1, codes.len().div_ceil(in_a_word) as i64], "{bits} bits");
                let unpacked = edited(&packed, unpack(&packed).unwrap());
                assert_eq!(unpacked.nodes().len(), 4, "the nodes that unpack are gone");
                for node in [0, 1] {
                    let weight = unpacked.constant(unpacked.node(NodeId(node)).operand(0).unwrap()).unwrap();
                    assert_eq!(tensor::shape(weight), dims);
                    let found: Vec<i8> = tensor::i64s(weight).unwrap().iter().map(|&q| q as i8).collect();
                    assert_eq!(found, codes, "{bits} bits, {dims:?}");
                }
            }
        }
    }

    #[test]
    fn what_gains_nothing_stays() {
        for (dims, bits) in [([32, 32], 7), ([32, 32], 8), ([16, 16], 4)] {
            let plain = quantized(dims, &codes(dims[0] * dims[1], bits));
            assert!(pack(&plain).unwrap().is_none(), "{dims:?}, {bits} bits");
            assert!(unpack(&plain).unwrap().is_none());
        }
    }

    #[test]
    fn words_that_do_not_make_the_weight_are_refused() {
        let plain = quantized([32, 32], &codes(1024, 4));
        let packed = edited(&plain, pack(&plain).unwrap());
        let refused = |constant: &str, values: &[i64], why: &str| {
            let mut model = packed.model().clone();
            let graph = model.proto.graph.as_mut().unwrap();
            let found = graph.initializer.iter_mut().find(|t| t.name() == constant).unwrap();
            *found = tensor::from_i64(constant, &tensor::shape(found), values);
            let error = unpack(&Graph::new(model).unwrap()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused("w_base", &[7], "into digits");
        refused("w_half", &[3], "into digits");
        refused("w_end", &[1 << 40], "makes");
        refused("w_dims", &[32, 33], "makes");
        refused("w_dims", &[1 << 62, 1 << 62], "makes");
    }
}
