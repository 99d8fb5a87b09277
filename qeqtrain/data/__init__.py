"""Data: readers, one store, statistics, splits, and batches that resume exactly.

Units and signs are converted where files are read; inside there are only eV, A, e and the names
of :data:`qeqtrain.data.labels.LABELS`. Nothing is guessed silently: which column holds the
charges, what an absent total charge means, about which origin a dipole was taken are
:class:`qeqtrain.data.labels.Conventions`, stated in the recipe and kept with the model.

Nothing is imported here, so that a process that only labels structures starts without torch.
"""
