"""What docs/scale.md says beside its figures."""

INTRODUCTION = """\
# Ten billion images, on paper

What 10⁶ to 10¹⁰ images cost to train on, encode, build, hold and search, and where each part must change. Nobody has
run this at 10¹⁰. Each table says where its figures come from:

- *Measured* on one machine, up to 10⁸ codes (`python -m benchmarks.scale measure`).
- *Simulated* from assumptions, ten seeds, mean ± standard deviation (`... simulate`).
- *Computed* from what was measured and a table of prices (`... costs`): beyond the measured sizes it is arithmetic.
- *Read* in the source, of FAISS or of this package.

Change `benchmarks/scale/prices.toml` or `simulation.toml`, run the command and `python -m benchmarks.scale page`, and
this page is yours.
"""

ENCODING = """\
Whole processes side by side, each of one thread, made-up JPEG files of 256 pixels, random weights. `per core` divides
by the processes or, where there are fewer, by the cores."""
TRAINING = """\
One process of one thread. Steps are of the default head with its memory, without the term that preserves features."""
BUILDING = """\
One thread, random codes. `pq` and `pqfs` copy codes; `ivfpq` also runs a coarse k-means and finds each code's list.
Memory is the peak over what the process held before, over the bytes of all codes; of few codes it is the fixed cost
that shows."""
SHARDS = """\
One collection built by processes side by side, each its own share, from codes in a mapped file to an index file.
The goal is a process's memory under 1.3 times its share, the file that it writes. `over codes` and `over file` count
what the process takes beyond what it held before; mapped pages do not count, for the system drops them when it wants
memory. `whole process` counts them too, and Python with its libraries, over the codes. Inverted files have ids of 8
bytes a code beside the codes, and here 256 lists. Of few codes it is the fixed cost that shows."""
SEARCHING = """\
CPU time of one thread, the ten best, one query a call (`alone`) or many. Inverted files have lists of equal length
around random centroids: the work is that of a real one, what they find means nothing."""
FILES = """\
Codes of 4 bytes. `cold` is after the system was asked to forget the file. What of a mapped file is
read at once is in `mapped, bytes a code`."""
SKIPPED = "Left out here, and why:"
ONCE = """\
The backbone is the one under "What is assumed". Hours are of one core of the measured machine; GPU hours assume a GPU
that is so many times as fast, which was not measured. Training reads a part of the images, encoding all of them."""
KEPT = """\
For each size the kind of index that is cheaper as used: `pqfs` scans every code, `ivfpq` some lists and keeps an id of
8 bytes beside each code. Shards are as many as memory asks for, or as bring one core's part of a query under the
latency; copies as many as asked for, or as the queries' rate needs. Disk holds the index of every copy, and codes and
what is kept of the items once, which is far more than the codes; the object store holds one of each again."""
MONEY = "`As used` pays for bytes and core hours; `whole machines` rents all of every machine, busy or not."
SCANNED = "Where every code is scanned for every query:"
LIMITS = "The number of images from which on the part must change, for codes of so many bytes:"
LISTS = """\
The default inverted file of one index: about 4 √n lists, about 2 √nlist of them visited. Finding a query's lists grows
with √n and scanning them with n^¾, so a search does not ask for a coarse quantizer of two levels. Building does: where
`assign / encode` is above 1, finding an image's list costs more than encoding it. More shards are one answer (each has
fewer lists), a coarse quantizer of two levels the other; the package has none."""
CADENCE = """\
Of inverted files of 4 bytes a code. An index file is written as a whole; segments and shards keep small what is
written. The default nlist follows √n: lists that were right for n are too few for 4 n."""
FLEET = """\
`over ideal` is the time over that of all nodes busy from start to end, without stragglers, failures and starts;
`node time / work` is all that nodes did over what had to be done. With copies, a free node without a shard of its own
begins the one that has run longest once more, and the first to end counts."""
FANOUT = """\
Milliseconds from a request to the last shard's answer. With `hedge`, a second replica is asked when the first has not
answered after so long."""
UPTIME = "The share of time in which every shard has a replica that answers, simulated, and by arithmetic."

LIMITS_OF_FAISS = """\
## Limits of FAISS and of this package

*Read.*

| limit | value | what it means |
|---|---|---|
| ids | 64 bits | none at this size |
| lists visited, and results, on a GPU | 2,048 | more copies of fewer lists, or the CPU |
| `ivfpq-all` | 2,048 lists, made for 65,536 codes each | about 134 million codes on a GPU |
| FastScan | under 2³¹ codes an index | ten billion are five shards or more |
| FastScan | 4-bit codes | `pqfs` cannot be mapped: opening reads the file |
| coarse k-means | 256 sampled rows a list, 39 wanted | its sample grows with √n; memory as much as the index |
| coarse quantizer | one level, exhaustive | see above |
| one query | one thread in the exhaustive kinds | latency wants shards, not threads |
"""

NOT_MEASURED = """\
## What was not measured

- GPUs, for encoding or for searching; networks, object stores, other machines and more cores than this one has.
- More than 10⁸ codes; inverted files with the default number of lists beyond what "Left out here" says. The sample of
  their k-means takes up to as much memory as the index, before it is filled.
- Recall: codes here are random. What codes of which size find is in [Speed](speed.md) and
  [Codes on collections of many kinds](collections.md).
- Sharded bundles, replicas and services under load; the simulations' failures, slow nodes and pauses are assumptions.
- People: who runs a thousand nodes costs more than some of these lines.
"""
