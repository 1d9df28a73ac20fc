"""Scores of a prediction table: pure functions of what was answered, with intervals, slices and comparisons.

Nothing here needs a model, a GPU or torch: a table can be scored, sliced, compared and resampled years later.

| file | holds |
|---|---|
| `table` | prediction tables as JSON Lines, and the document `results.json` |
| `normalise` | SQuAD's normalisation of answers |
| `ptb` | the words of a caption as coco-caption counts them |
| `metrics/` | one file a family of metrics, and the table of their keys |
| `slices`, `intervals` | parts of a table by tag; bootstrap intervals over groups |
| `score`, `compare` | both put together: scores of one table, paired differences of two |
| `baselines` | what needs no model: the most common answer, the nearest training picture |
| `debug` | texts before and after normalisation, with the verdict |

The contract of a metric (`metrics.contract.Metric`): `statistics` turns a list of predictions into an array
of shape (items, width), one row for each item; `reduce` turns sums of such rows, with the number of rows
summed, into the named values. A mean has width 1 and divides; corpus BLEU sums matches, totals and lengths
and takes logarithms last. So a slice is a sum over fewer rows, a bootstrap resample is a weighted sum, and
texts are read once, however many resamples there are. What a row needs of the whole table (CIDEr's document
frequencies) is settled in `statistics`, so slices and resamples keep it.

Adding a metric: one file in `metrics/` that makes a `Metric`, and one row in the table of
`metrics/__init__.py`.
"""
