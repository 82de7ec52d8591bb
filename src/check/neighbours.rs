//! Whether features still find the image that is most alike.

use rayon::prelude::*;

/// Images whose nearest neighbour by cosine among the others is the same in both lists of features, of how many that have one.
/// Of equally near ones it is the first.
pub(super) fn same_neighbours(float: &[Vec<f32>], quantized: &[Vec<f32>]) -> [usize; 2] {
    if float.len() < 2 {
        return [0; 2];
    }
    let [float, quantized] =
        [float, quantized].map(|rows| rows.iter().map(|row| unit(row)).collect::<Vec<_>>());
    let same =
        (0..float.len()).into_par_iter().filter(|&at| nearest(&float, at) == nearest(&quantized, at)).count();
    [same, float.len()]
}

fn unit(row: &[f32]) -> Vec<f64> {
    let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    row.iter().map(|x| if length > 0.0 { f64::from(*x) / length } else { 0.0 }).collect()
}

fn nearest(rows: &[Vec<f64>], at: usize) -> Option<usize> {
    let likeness = |other: usize| rows[at].iter().zip(&rows[other]).map(|(a, b)| a * b).sum::<f64>();
    let others = (0..rows.len()).filter(|&other| other != at).map(|other| (other, likeness(other)));
    others.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(other, _)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_the_smallest_angle() {
        let float = [vec![1.0, 0.0], vec![10.0, 1.0], vec![0.0, 1.0], vec![0.1, 2.0]];
        assert_eq!(same_neighbours(&float, &float), [4, 4]);
        // The second turns away from the first, whose nearest is now the fourth.
        let turned = [vec![1.0, 0.0], vec![-10.0, 1.0], vec![0.0, 1.0], vec![0.1, 2.0]];
        assert_eq!(same_neighbours(&float, &turned), [2, 4]);
        assert_eq!(same_neighbours(&float[..1], &float[..1]), [0, 0]);
    }
}
