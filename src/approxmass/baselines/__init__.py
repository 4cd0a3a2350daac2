"""Other detectors, one file each: `fit(images, labels=None, outliers=None)`, `score(images)`."""
