use super::*;

#[test]
fn a_csv_gives_paths_in_order_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["b.png", "a, \"1\".png"]);
    let csv = folder.path().join("list.csv");
    fs::write(&csv, "label,path\n7,b.png\n5,\"a, \"\"1\"\".png\"\n").unwrap();
    let dataset = Dataset::open(&csv, &small(), all()).unwrap();
    assert_eq!(dataset.names, ["b.png", "a, \"1\".png"]);
    assert_eq!(dataset.labels, Some(vec![7, 5]));
    assert_eq!(dataset.batch(0..2).unwrap().dim(), (2, 3, 4, 4));
    let one = Dataset::open(&csv, &small(), first(1)).unwrap();
    assert_eq!((one.len(), one.labels), (1, Some(vec![7])));
}

#[test]
fn labels_are_matched() {
    // The CSV file, the labels of `a/1.png`, `a/2.png`, `b/1.png` or a part of the error.
    let cases: [(&str, Result<[u32; 3], &str>); 10] = [
        ("path,label\nb/1.png,3\n./a/1.png,1\na\\2.png,2\n", Ok([1, 2, 3])),
        ("label\n4\n5\n6\n", Ok([4, 5, 6])),
        ("path,label\na/1.png,1\nb/1.png,3\nx/2.png,2\nx/9.png,9\n", Ok([1, 2, 3])),
        ("path,label\na/1.png,1\n1.png,3\n2.png,2\n", Err("`1.png` alone is ambiguous")),
        ("path,label\na/1.png,1\nb/1.png,3\n", Err("no label for `a/2.png`")),
        ("path,label\na/1.png,1\na/1.png,2\n", Err("two labels for `a/1.png`")),
        ("path,label\na/1.png,1\na/2.png,-2\n", Err("line 3: label `-2`")),
        ("label\n4\n5\n", Err("2 labels for 3 items")),
        ("path\na/1.png\n", Err("no `label` column")),
        ("a,b\n1,2\n", Err("the first line must name")),
    ];
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["a/1.png", "a/2.png", "b/1.png"]);
    let csv = folder.path().join("labels.csv");
    for (text, expected) in cases {
        fs::write(&csv, text).unwrap();
        let found = Dataset::open(folder.path(), &small(), all()).unwrap().with_labels(&csv);
        match (found, expected) {
            (Ok(dataset), Ok(labels)) => assert_eq!(dataset.labels.unwrap(), labels, "{text}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[test]
fn columns_have_other_names_and_labels_are_names() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["a.png", "b.png"]);
    let csv = folder.path().join("list.csv");
    let classes = ["tench", "Great White"].map(str::to_owned).to_vec();
    let named = |path: Option<&str>, label: Option<&str>| Columns {
        path: path.map(str::to_owned),
        label: label.map(str::to_owned),
        classes: classes.clone(),
        several: false,
    };
    let labels = |text: &str, columns: &Columns| {
        fs::write(&csv, text).unwrap();
        let dataset = Dataset::open(folder.path(), &small(), all()).unwrap();
        dataset
            .with_labels_of(&csv, columns)
            .map(|dataset| dataset.labels.unwrap())
            .map_err(|e| e.to_string())
    };
    let usual = named(None, None);
    assert_eq!(labels("image,class\na.png,great white\nb.png,tench\n", &usual), Ok(vec![1, 0]));
    assert_eq!(labels("filename,target\na.png,1\nb.png,0\n", &usual), Ok(vec![1, 0]));
    let why = labels("image,class\na.png,shark\nb.png,tench\n", &usual).unwrap_err();
    assert!(why.contains("line 2: label `shark` is neither a 0-based class number nor the name"), "{why}");
    let own = named(Some("where"), Some("what"));
    assert_eq!(labels("path,where,what\nx,b.png,1\ny,a.png,0\n", &own), Ok(vec![0, 1]));
    assert!(labels("path,label\na.png,0\nb.png,1\n", &own).unwrap_err().contains("no column `where`"));
}

#[test]
fn folders_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let labels = |files: &[&str], classes: &[&str], limit| {
        copy_image(&folder, files);
        let columns =
            Columns { classes: classes.iter().map(|&name| name.to_owned()).collect(), ..Columns::default() };
        let selection = Selection { limit, seed: 0, skip: 0 };
        let dataset =
            Dataset::open(folder.path(), &small(), selection).unwrap().with_labels_of_folders(&columns);
        dataset.map(|dataset| (dataset.labels.unwrap(), dataset.notes.len())).map_err(|e| e.to_string())
    };
    assert_eq!(labels(&["cat/1.png", "dog/1.png", "dog/x/2.png"], &[], None), Ok((vec![0, 1, 1], 1)));
    assert_eq!(labels(&[], &["dog", "CAT"], None), Ok((vec![1, 0, 0], 0)), "by the names of the classes");
    // A class keeps its number where a sample leaves out another one.
    let (sampled, _) = labels(&[], &[], Some(1)).unwrap();
    assert_eq!(sampled.len(), 1);
    assert!(labels(&["alone.png"], &[], None).unwrap_err().contains("do not lie in a folder"));
    let numbers = tempfile::tempdir().unwrap();
    copy_image(&numbers, &["7/a.png", "3/b.png"]);
    let found = Dataset::open(numbers.path(), &small(), all()).unwrap();
    assert_eq!(found.with_labels_of_folders(&Columns::default()).unwrap().labels, Some(vec![3, 7]));
}

#[test]
fn labels_without_paths_follow_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"];
    copy_image(&folder, &names);
    let csv = folder.path().join("labels.csv");
    fs::write(&csv, "label\n0\n1\n2\n3\n4\n5\n").unwrap();
    let dataset = Dataset::open(folder.path(), &small(), first(3)).unwrap().with_labels(&csv).unwrap();
    let expected: Vec<String> = dataset.labels.unwrap().iter().map(|label| format!("{label}.png")).collect();
    assert_eq!(dataset.names, expected);
}

#[test]
fn faults_of_csv_files_name_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("labels.csv");
    for (text, part) in [
        ("path,label\na,1\nb,x\n", "line 3: label `x`"),
        ("path,label\r\na,1\r\nb,x\r\n", "line 3: label `x`"),
        ("path,label\ra,1\rb,x\r", "line 3: label `x`"),
        ("path,label\n\n\na,1\n\r\nb,x\n", "line 6: label `x`"),
        ("\"path\",label\n\"a\nb\r\nc\",1\nb,x\n", "line 5: label `x`"),
        ("\u{feff}path,label\na,1\nb,x", "line 3: label `x`"),
        ("path,label\r\na,1\r\n\r\n# of b\r\nb,2\r\n", "line 4: 1 fields, expected 2"),
        ("path,label\na,1,2\n", "line 2: 3 fields, expected 2"),
    ] {
        fs::write(&csv, text).unwrap();
        // Labels are not needed of the images themselves.
        let why = match Dataset::open(&csv, &small(), all()) {
            Ok(dataset) => dataset.notes.join(", "),
            Err(error) => error.to_string(),
        };
        assert!(why.contains(part), "{text:?}: {why}");
    }
    fs::write(&csv, b"path,label\r\na,1\r\n\xff,2\r\n").unwrap();
    let why = Dataset::open(&csv, &small(), all()).unwrap_err().to_string();
    assert!(why.contains("line 3: not in UTF-8"), "{why}");
}

#[test]
fn images_may_have_several_labels() {
    let folder = tempfile::tempdir().unwrap();
    copy_image(&folder, &["a.png", "b.png", "c.png"]);
    let csv = folder.path().join("list.csv");
    let classes = ["person", "dining table", "dog"].map(str::to_owned).to_vec();
    let columns = Columns { classes, several: true, ..Columns::default() };
    let sets = |text: &str| {
        fs::write(&csv, text).unwrap();
        let listed = Dataset::open(folder.path(), &small(), all()).unwrap().with_labels_of(&csv, &columns);
        listed.map(|data| (data.labels, data.label_sets.unwrap())).map_err(|e| e.to_string())
    };
    let expected = Ok((None, vec![vec![0, 2], vec![1], vec![]]));
    for text in [
        "path,label\na.png,2;0\nb.png,1\nc.png,\n",
        "path,label\na.png, dog ; Person;dog\nb.png,dining table;\nc.png,;\n",
        "path,label\na.png,0\nb.png,1\n./a.png,2\nc.png,\na.png,0\n",
        "path,label\nx/a.png,0\nb.png,1\nx/a.png,2\nc.png,\n",
        "label\n0;2\n1\n;\n",
    ] {
        assert_eq!(sets(text), expected, "{text}");
    }
    assert!(sets("path,label\na.png,0;cat\n").unwrap_err().contains("line 2: label `cat` is neither"));

    // As the list of images, too: a path that comes again is one image.
    fs::write(&csv, "path,label\nb.png,1\na.png,0\nb.png,2\n").unwrap();
    let arrays = Arrays { name: "images", arrange: &arrays::as_images, columns: &columns };
    let data = Dataset::open_with(&csv, &small(), all(), &arrays).unwrap();
    assert_eq!(data.names, ["b.png", "a.png"]);
    assert_eq!(data.label_sets, Some(vec![vec![1, 2], vec![0]]));
    // Where an item has one label, `;` is no label.
    fs::write(&csv, "path,label\nb.png,1;2\n").unwrap();
    let data = Dataset::open(&csv, &small(), all()).unwrap();
    assert!(data.labels.is_none() && data.notes[0].contains("label `1;2`"), "{:?}", data.notes);
}

#[test]
fn arrays_may_have_several_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let open = |labels: ndarray::Array2<i64>| {
        let mut npz = NpzWriter::new_compressed(fs::File::create(&path).unwrap());
        npz.add_array("images", &Array4::<f32>::zeros([2, 1, 1, 1])).unwrap();
        npz.add_array("labels", &labels).unwrap();
        npz.finish().unwrap();
        Dataset::open(&path, &small(), all()).map_err(|e| e.to_string())
    };
    let data = open(ndarray::array![[0, 1, 1], [0, 0, 0]]).unwrap();
    assert_eq!((data.labels, data.label_sets), (None, Some(vec![vec![1, 2], vec![]])));
    assert_eq!(open(ndarray::array![[4], [2]]).unwrap().labels, Some(vec![4, 2]));
    assert!(open(ndarray::array![[0, 2], [0, 1]]).unwrap_err().contains("holds 2, expected 0 or 1"));
    assert!(open(ndarray::array![[0, 1]]).unwrap_err().contains("1 labels for 2 items"));
}
