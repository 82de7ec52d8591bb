use std::fs;

use ndarray::{Array1, Array4, ArrayD};
use ndarray_npy::{NpzWriter, read_npy};
use tempfile::TempDir;

use super::*;

mod labels;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images")
}

fn spec(resize: u32, crop: u32, interpolation: Interpolation) -> Preprocess {
    Preprocess { resize: Resize::Short(resize), interpolation, ..Preprocess::timm_vit(crop) }
}

fn small() -> Preprocess {
    spec(4, 4, Interpolation::Bicubic)
}

/// The largest difference from torchvision in u8 steps, and the share of values that differ.
fn difference(golden: &str) -> (u8, f64) {
    let [image, extension, resize, crop, interpolation, mode, "npy"] =
        golden.split('.').collect::<Vec<_>>()[..]
    else {
        panic!("{golden} is not named image.extension.resize.crop.interpolation.mode.npy")
    };
    let sides = |text: &str| {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        [height.parse::<u32>().unwrap(), width.parse().unwrap()]
    };
    let resize = match resize.strip_prefix('c') {
        Some(covered) => Resize::Cover(sides(covered)),
        None if resize.contains('x') => Resize::Exact(sides(resize)),
        None => Resize::Short(resize.parse().unwrap()),
    };
    let color = match mode {
        "L" => Color::Gray,
        "RGB" => Color::Rgb,
        _ => Color::Rgba,
    };
    let ([height, width], interpolation) = (sides(crop), interpolation.parse().unwrap());
    let spec = Preprocess { resize, interpolation, ..Preprocess::timm(height, width, color) };
    let expected: ArrayD<u8> = read_npy(fixtures().join(golden)).unwrap();
    let ours = decode::crop_of(&fixtures().join(format!("{image}.{extension}")), &spec, MAX_PIXELS).unwrap();
    assert_eq!(ours.len(), expected.len(), "{golden}");
    let steps: Vec<u8> = ours.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let differing = steps.iter().filter(|&&step| step > 0).count();
    (steps.iter().copied().max().unwrap(), differing as f64 / steps.len() as f64)
}

#[test]
fn images_are_prepared_as_torchvision_does() {
    // Golden file, largest step allowed, largest share of differing values allowed.
    let cases = [
        ("rgb.png.18.16.bicubic.RGB.npy", 1, 0.02),
        ("rgb.png.18.16.bilinear.RGB.npy", 1, 0.02),
        ("rgb.png.18.16.lanczos.RGB.npy", 1, 0.02),
        ("rgb.png.51.33.bicubic.RGB.npy", 1, 0.02),
        ("rgb.png.10.16.bicubic.RGB.npy", 1, 0.02),
        ("rgb.png.29.24.bicubic.RGB.npy", 0, 0.0),
        ("rgb.png.24x20.24x20.bicubic.RGB.npy", 1, 0.02),
        ("rgb.png.c17x40.15x36.bicubic.RGB.npy", 1, 0.02),
        ("rgb.png.c35x18.32x16.bilinear.RGB.npy", 1, 0.02),
        ("rgb.png.18.16.bicubic.L.npy", 1, 0.02),
        ("rgba.png.18.16.bicubic.RGB.npy", 1, 0.02),
        ("rgba.png.18.16.bicubic.RGBA.npy", 2, 0.02),
        ("rgba.png.c17x40.15x36.bilinear.RGBA.npy", 2, 0.02),
        ("gray.png.18.16.bicubic.RGB.npy", 1, 0.02),
        ("gray.png.18.16.bicubic.L.npy", 1, 0.02),
        ("gray.png.18.16.bicubic.RGBA.npy", 1, 0.02),
        ("palette.png.18.16.bicubic.RGB.npy", 1, 0.02),
        // Decoders of JPEG differ in rounding.
        ("turned.jpg.18.16.bicubic.RGB.npy", 2, 0.1),
        ("cmyk.jpg.18.16.bicubic.RGB.npy", 2, 0.05),
        ("lossless.jp2.18.16.bicubic.RGB.npy", 1, 0.02),
        ("opacity.jp2.18.16.bicubic.RGB.npy", 1, 0.02),
        ("opacity.jp2.18.16.bicubic.RGBA.npy", 2, 0.02),
        ("gray.jp2.18.16.bicubic.RGB.npy", 1, 0.02),
        // So do those of JPEG 2000 where it is lossy.
        ("lossy.j2k.18.16.bicubic.RGB.npy", 2, 0.1),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .map(|&(golden, step, share)| (golden, step, share, difference(golden)))
        .filter(|&(_, step, share, (worst, differing))| worst > step || differing > share)
        .collect();
    assert!(wrong.is_empty(), "(golden, step, share, (worst, differing)): {wrong:#?}");
}

#[test]
fn values_are_scaled_channel_by_channel() {
    let path = fixtures().join("rgb.png");
    let pixels = decode::crop_of(&path, &small(), MAX_PIXELS).unwrap();
    let [mean, std] = [vec![0.25, 0.5, 0.75], vec![0.5, 1.0, 2.0]];
    let normalized = |byte: f32, c: usize| (byte / 255.0 - [0.25, 0.5, 0.75][c]) / [0.5, 1.0, 2.0][c];
    let unit = |byte: f32, _| byte / 255.0;
    let cases = [
        (Values::Normalized { mean, std }, &normalized as &dyn Fn(f32, usize) -> f32),
        (Values::Unit, &unit),
        (Values::Bytes, &|byte, _| byte),
    ];
    for (values, expected) in cases {
        let spec = Preprocess { values, ..small() };
        let loaded = decode::load(&path, &spec, MAX_PIXELS).unwrap();
        assert_eq!(loaded.dim(), (3, 4, 4));
        for ((channel, y, x), &value) in loaded.indexed_iter() {
            assert_eq!(value, expected(f32::from(pixels[(y * 4 + x) * 3 + channel]), channel), "{spec}");
        }
    }
}

#[test]
fn timm_defaults() {
    for (input, resize) in [(224, 248), (384, 426), (252, 280), (448, 497)] {
        assert_eq!(Preprocess::timm_vit(input).resize, Resize::Short(resize), "{input}");
    }
    assert_eq!(
        Preprocess::timm_vit(224).to_string(),
        "RGB, short side to 248 (bicubic), centre crop 224x224, scale to 0-1, mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]"
    );
}

fn copy_image(folder: &TempDir, names: &[&str]) {
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(fixtures().join("rgb.png"), path).unwrap();
    }
}

fn all() -> Selection {
    Selection::default()
}

fn first(limit: usize) -> Selection {
    Selection { limit: Some(limit), seed: 3, skip: 0 }
}

#[test]
fn a_folder_is_searched_sorted_and_sampled() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["b/2.png", "a b/it's, \"1\".png", "c.PNG", "b/10.png", ".hidden.png"]);
    fs::write(folder.path().join("notes.txt"), "no image").unwrap();
    let dataset = Dataset::open(folder.path(), &small(), all()).unwrap();
    assert_eq!(dataset.names, ["a b/it's, \"1\".png", "b/10.png", "b/2.png", "c.PNG"]);
    assert_eq!(dataset.batch(1..4).unwrap().dim(), (3, 3, 4, 4));

    let sampled = Dataset::open(folder.path(), &small(), first(2)).unwrap();
    assert_eq!(sampled.len(), 2);
    assert!(sampled.names.is_sorted() && sampled.names.iter().all(|name| dataset.names.contains(name)));
}

#[test]
fn one_image_is_a_dataset() {
    let dataset = Dataset::open(&fixtures().join("gray.png"), &small(), all()).unwrap();
    assert_eq!((dataset.len(), dataset.names[0].as_str()), (1, "gray.png"));
    assert_eq!(dataset.batch(0..1).unwrap().index_axis(Axis(0), 0), dataset.load(0).unwrap());
    assert_eq!(dataset.load(0).unwrap().shape(), dataset.item_shape());
}

#[test]
fn arrays_are_read_without_preprocessing() {
    let folder = tempfile::tempdir().unwrap();
    let array = Array4::from_shape_fn((3, 2, 1, 2), |(n, c, _, w)| (n * 4 + c * 2 + w) as f32);
    let npy = folder.path().join("images.npy");
    write_npy(&npy, &array.clone().into_dyn()).unwrap();
    let dataset = Dataset::open(&npy, &small(), all()).unwrap();
    assert_eq!(dataset.batch(1..3).unwrap(), array.slice(s![1..3, .., .., ..]));
    assert_eq!(dataset.names[2], "images[2]");
    assert_eq!(dataset.item_shape(), [2, 1, 2]);

    for name in ["x", "anything"] {
        let npz = folder.path().join(format!("{name}.npz"));
        let mut writer = NpzWriter::new_compressed(fs::File::create(&npz).unwrap());
        writer.add_array(name, &array.mapv(f64::from)).unwrap();
        writer.add_array("scale", &Array1::<f32>::zeros(3)).unwrap();
        writer.add_array("labels", &Array1::from(vec![2i64, 0, 1])).unwrap();
        writer.finish().unwrap();
        let dataset = Dataset::open(&npz, &small(), first(2)).unwrap();
        assert_eq!(dataset.batch(0..2).unwrap(), array.slice(s![..2, .., .., ..]), "{name}");
        assert_eq!(dataset.labels, Some(vec![2, 0]), "{name}");
    }
}

#[test]
fn faults_of_arrays_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let npy = folder.path().join("a.npy");
    let mut spoiled = Array4::<f32>::zeros((2, 1, 2, 2));
    spoiled[[1, 0, 1, 0]] = f32::NAN;
    let cases = [
        (spoiled.into_dyn(), "`a` holds NaN at [1, 0, 1, 0]"),
        (ArrayD::zeros(vec![3, 4]), "shape [3, 4], expected [N, C, H, W]"),
        (ArrayD::zeros(vec![0, 3, 4, 4]), "no axis of 0"),
    ];
    for (array, part) in cases {
        write_npy(&npy, &array).unwrap();
        let error = Dataset::open(&npy, &small(), all()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("a.npy"), "{error}");
    }
    fs::write(&npy, b"\x93NUMPY\x01\x00\x46\x00{'descr': '<c8', 'fortran_order': False, 'shape': (1,1,1,1), }          \n").unwrap();
    let error = Dataset::open(&npy, &small(), all()).unwrap_err().to_string();
    assert!(error.contains("elements of type <c8"), "{error}");
}

#[test]
fn arrays_of_every_plain_type_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let npy = folder.path().join("a.npy");
    macro_rules! check {
        ($($type:ty),*) => {$(
            ndarray_npy::write_npy(&npy, &Array4::<$type>::from_shape_fn((1, 1, 2, 2), |(_, _, h, w)| (h * 2 + w) as $type)).unwrap();
            let values = Dataset::open(&npy, &small(), all()).unwrap().load(0).unwrap();
            assert_eq!(values.into_iter().collect::<Vec<f32>>(), [0.0, 1.0, 2.0, 3.0], stringify!($type));
        )*};
    }
    check!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);
    // FLOAT16, which ndarray-npy does not write.
    let halves = [0.5_f32, -2.0, 65504.0, 0.0].map(half::f16::from_f32).map(half::f16::to_bits);
    let bits = Array4::from_shape_vec((1, 1, 2, 2), halves.to_vec()).unwrap();
    ndarray_npy::write_npy(&npy, &bits).unwrap();
    let bytes = fs::read(&npy).unwrap();
    let at = bytes.windows(3).position(|window| window == b"<u2").unwrap();
    fs::write(&npy, [&bytes[..at], b"<f2", &bytes[at + 3..]].concat()).unwrap();
    let values = Dataset::open(&npy, &small(), all()).unwrap().load(0).unwrap();
    assert_eq!(values.into_iter().collect::<Vec<f32>>(), [0.5, -2.0, 65504.0, 0.0]);
}

#[test]
fn faults_of_images_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path, spec: &Preprocess, selection| {
        Dataset::open(path, spec, selection).and_then(|dataset| dataset.batch(0..1)).unwrap_err().to_string()
    };
    assert!(error(folder.path(), &small(), all()).contains("no images here"));
    assert!(error(folder.path(), &small(), first(0)).contains("limit of 0"));

    let broken = folder.path().join("broken.png");
    let png = fs::read(fixtures().join("rgb.png")).unwrap();
    fs::write(&broken, &png[..600]).unwrap();
    assert!(error(folder.path(), &small(), all()).contains("broken.png: not an image that can be decoded"));
    assert!(error(&folder.path().join("absent.png"), &small(), all()).contains("absent.png"));

    // A header that claims 40000 x 40000 pixels.
    let bomb: Vec<u8> = b"P6 40000 40000 255\n".iter().copied().chain([0; 64]).collect();
    fs::write(folder.path().join("bomb.ppm"), bomb).unwrap();
    assert!(
        error(&folder.path().join("bomb.ppm"), &small(), all()).contains("bomb.ppm: 40000 x 40000 pixels")
    );

    // The same of JPEG 2000, which may have a third as many pixels as others; and as many as are allowed.
    let mut large = fs::read(fixtures().join("lossy.j2k")).unwrap();
    large[8..16].copy_from_slice(&[0, 0, 0x20, 0, 0, 0, 0x20, 0]);
    large[24..32].copy_from_slice(&[0, 0, 0x20, 0, 0, 0, 0x20, 0]);
    fs::write(folder.path().join("large.j2k"), large).unwrap();
    let why = error(&folder.path().join("large.j2k"), &small(), all());
    assert!(why.contains("large.j2k: 8192 x 8192 pixels, expected 1 to 22369621"), "{why}");
    let allowed = |image: &str, max_pixels: u64| {
        let mut dataset = Dataset::open(&fixtures().join(image), &small(), all()).unwrap();
        dataset.max_pixels = max_pixels;
        let kept = dataset.without_broken().map(|left_out| left_out.len());
        (dataset.load(0).map_err(|e| e.kind()).map(|_| ()), kept.map_err(|e| e.to_string()))
    };
    assert_eq!(allowed("rgb.png", 37 * 29), (Ok(()), Ok(0)));
    let (loaded, kept) = allowed("rgb.png", 37 * 29 - 1);
    assert_eq!(loaded, Err(ErrorKind::Pixels));
    assert!(kept.unwrap_err().contains("rgb.png: 37 x 29 pixels, expected 1 to 1072"));
    assert_eq!(allowed("lossless.jp2", 3 * 37 * 29), (Ok(()), Ok(0)));
    assert_eq!(allowed("lossless.jp2", 3 * 37 * 29 - 3).0, Err(ErrorKind::Pixels));

    // What is known, but not read, is named, whatever it is called.
    let avif = folder.path().join("a.png");
    fs::copy(fixtures().join("unread.avif"), &avif).unwrap();
    for (bytes, part) in [
        (None, "a.png: AVIF images are not read: convert it to PNG"),
        (Some(&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..]), "HEIC images are not read"),
        (Some(b"\xff\x0a\xfa\x1f"), "JPEG XL images are not read"),
    ] {
        bytes.inspect(|bytes| fs::write(&avif, bytes).unwrap());
        let why = error(&avif, &small(), all());
        assert!(why.contains(part), "{why}");
    }

    // So thin that the resized image would be enormous.
    let thin: Vec<u8> = b"P5 100000 1 255\n".iter().copied().chain(std::iter::repeat_n(0, 100_000)).collect();
    fs::write(folder.path().join("thin.pgm"), thin).unwrap();
    let wide = spec(224, 224, Interpolation::Bicubic);
    assert!(
        error(&folder.path().join("thin.pgm"), &wide, all()).contains("thin.pgm: resized from 100000 x 1")
    );

    for bad in [
        spec(0, 4, Interpolation::Bicubic),
        Preprocess { values: Values::Normalized { mean: vec![0.0; 3], std: vec![0.0; 3] }, ..small() },
    ] {
        assert_eq!(Dataset::open(&broken, &bad, all()).unwrap_err().exit_code(), 2);
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["a.png"]);
    std::os::unix::fs::symlink(fixtures(), folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink(fixtures().join("rgb.png"), folder.path().join("b.png")).unwrap();
    assert_eq!(Dataset::open(folder.path(), &small(), all()).unwrap().names, ["a.png"]);
}

#[test]
fn arrays_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.npy");
    let array = ArrayD::from_shape_fn(vec![2, 3], |at| (at[0] * 3 + at[1]) as f32);
    write_npy(&path, &array).unwrap();
    assert_eq!(read_npy::<_, ArrayD<f32>>(&path).unwrap(), array);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(write_npy(&folder.path().join("absent/out.npy"), &array).is_err());
}

/// Every format, cut at many places: an error, or all pixels.
#[test]
fn images_that_are_cut_short_are_refused() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    let folder = tempfile::tempdir().unwrap();
    let pixels =
        image::RgbImage::from_fn(61, 47, |x, y| image::Rgb([x, y, x * y].map(|v| (v * 5 % 256) as u8)));
    let spec = spec(47, 47, Interpolation::Bicubic);
    for format in [Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP] {
        let path = folder.path().join(format!("a.{}", format.extensions_str()[0]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, format).unwrap();
        let bytes = bytes.into_inner();
        fs::write(&path, [&bytes[..], b"behind the end"].concat()).unwrap();
        let whole = decode::crop_of(&path, &spec, MAX_PIXELS).unwrap();
        let cuts = (1..40).map(|i| bytes.len() * i / 40).chain((1..20).map(|i| bytes.len() - i));
        for cut in cuts {
            fs::write(&path, &bytes[..cut]).unwrap();
            if let Ok(decoded) = decode::crop_of(&path, &spec, MAX_PIXELS) {
                assert!(decoded == whole, "{format:?}: {cut} of {} bytes", bytes.len());
            }
        }
    }
}

#[test]
fn jpeg_2000_that_is_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(16, 16, Interpolation::Bicubic);
    for name in ["lossless.jp2", "lossy.j2k"] {
        let path = folder.path().join(name);
        let bytes = fs::read(fixtures().join(name)).unwrap();
        fs::write(&path, [&bytes[..], b"behind the end"].concat()).unwrap();
        let whole = decode::crop_of(&path, &spec, MAX_PIXELS).unwrap();
        fs::write(&path, &bytes).unwrap();
        assert!(decode::crop_of(&path, &spec, MAX_PIXELS).unwrap() == whole, "{name}");
        for cut in (1..bytes.len()).step_by(7).chain(bytes.len() - 9..bytes.len()) {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(decode::crop_of(&path, &spec, MAX_PIXELS).is_err(), "{name}: {cut} of {}", bytes.len());
        }
    }
}

/// A preview has an end of its own, which is not that of the image.
#[test]
fn the_end_of_a_jpeg_is_not_that_of_its_preview() {
    let jpeg = fs::read(fixtures().join("turned.jpg")).unwrap();
    let preview = [&[0xff, 0xe2, 0, 6][..], &[0xff, 0xd8, 0xff, 0xd9]].concat();
    let whole = [&jpeg[..2], &preview, &jpeg[2..]].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let decoded = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        decode::crop_of(&path, &small(), MAX_PIXELS)
    };
    assert_eq!(decoded(&whole).unwrap(), decoded(&jpeg).unwrap());
    let why = decoded(&whole[..whole.len() - 2]).unwrap_err();
    assert!(why.exit_code() == 3 && why.to_string().contains("a.jpg: the file is cut short"), "{why}");
}

/// The byte where the central directory of the only entry of an archive keeps a size.
fn directory_at(zip: &[u8], offset: usize) -> usize {
    zip.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap() + offset
}

#[test]
fn archives_that_claim_too_much_are_refused_before_they_are_unpacked() {
    const UNPACKED_SIZE: usize = 24;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.npz");
    let mut writer = NpzWriter::new_compressed(std::io::Cursor::new(Vec::new()));
    writer.add_array("x", &Array4::<f32>::zeros((8, 3, 16, 16))).unwrap();
    let zip = writer.finish().unwrap().into_inner();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Dataset::open(&path, &small(), all()).map(drop).map_err(|error| error.to_string())
    };
    error(&zip).unwrap();
    for (claim, part) in
        [(0xffff_fff0_u32, "unpack to 4294967280"), (1000, "872 are there"), (1 << 20, "are there")]
    {
        let mut lying = zip.clone();
        let at = directory_at(&zip, UNPACKED_SIZE);
        lying[at..at + 4].copy_from_slice(&claim.to_le_bytes());
        let why = error(&lying).unwrap_err();
        assert!(why.contains("bomb.npz") && why.contains(part), "{claim}: {why}");
    }
    // The header of an array claims 4 PB.
    let npy = folder.path().join("a.npy");
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 1), }\n";
    let length = (text.len() as u16).to_le_bytes();
    fs::write(&npy, [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), &[0; 192]].concat()).unwrap();
    let why = Dataset::open(&npy, &small(), all()).unwrap_err().to_string();
    assert!(why.contains("speaks of 4000000000000000 bytes, 192 are there"), "{why}");
}

#[test]
fn the_skipped_files_of_a_folder_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["a.png"]);
    for name in ["b.txt", "c.TXT", "d.xml", "README", ".hidden"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let notes = Dataset::open(folder.path(), &small(), all()).unwrap().notes;
    assert_eq!(notes, ["4 files are no images (2 .txt, 1 .xml, 1 without an extension)"]);
}
