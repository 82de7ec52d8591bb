use onnx_ptq4vit::{calibrate::*, data::*, onnx::*, plan::plan, progress::Progress};
struct P(std::time::Instant);
impl Progress for P { fn stage(&self, n:&str, t:usize){eprintln!("{:.1} {n} {t}",self.0.elapsed().as_secs_f32())} fn step(&self,d:&str){ if !d.is_empty() {eprintln!("{:.1} {d}",self.0.elapsed().as_secs_f32())}} fn note(&self,_:&str){} }
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let m = Model::read(a[1].as_ref()).unwrap();
    let g = Graph::new(&m).unwrap();
    let p = plan(&g, &[]).unwrap();
    let mut c = std::collections::BTreeMap::new();
    for s in &p.sites { *c.entry(s.kind).or_insert(0)+=1; }
    eprintln!("{} {c:?}", p.sites.len());
    for l in &p.left { eprintln!("{l:?}"); }
    let pre = Preprocess { resize: 256, ..Preprocess::timm_vit(224) };
    let d = Dataset::open(a[2].as_ref(), &pre, Selection{limit:Some(a[3].parse().unwrap()), seed:0}).unwrap();
    let mut o = Options::new(Method::Ptq4vit);
    if a.len()>5 { let k=onnx_ptq4vit::quant::Bits::new(a[5].parse().unwrap()).unwrap(); o.weight_bits=k; o.activation_bits=k; }
    let r = calibrate(&m,&p,&d,&o,&P(std::time::Instant::now())).unwrap();
    r.write(a[4].as_ref()).unwrap();
}
