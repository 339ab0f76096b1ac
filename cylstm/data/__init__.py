"""Real data small enough to ship, for the demo, the tests and the examples.

README.md has the sources and the licences.

Knows files and arrays; nothing is read before a function is called.
"""

import numpy as np

__all__ = ["load_digits", "load_elnino"]

TEST_EVERY = 5  # image 4, 9, 14, ... is a test image


def _open(name):
    """A file beside this one, wherever the package lies, opened to read its bytes."""
    from importlib.resources import files

    return files(__name__).joinpath(name).open("rb")


def load_digits(part="all"):
    """The 1,797 handwritten digits of 8 x 8 pixels from the UCI repository [1]_.

    Parameters
    ----------
    part : {"all", "train", "test"}
        The split is fixed: every fifth image, index 4, 9, 14, ..., is a test image, which makes 359
        and leaves 1,438 to train on. Both parts hold images by each of the writers, so a test
        accuracy is that on new images of known hands; README.md beside this file has more on it.

    Returns
    -------
    images : ndarray of float32, shape (images, rows=8, pixels=8)
        0 (paper) to 1 (ink), in steps of 1/16.
    labels : ndarray of int64, shape (images,)
        0 to 9.

    Raises
    ------
    ValueError
        If ``part`` is none of the three.

    References
    ----------
    .. [1] E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
       Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.

    Examples
    --------
    >>> images, labels = load_digits()
    >>> images.shape, labels[:5].tolist()
    ((1797, 8, 8), [0, 1, 2, 3, 4])
    """
    if part not in ("all", "train", "test"):
        raise ValueError(f"part is {part!r}, expected 'all', 'train' or 'test'")
    with _open("digits.npz") as file, np.load(file) as arrays:
        images = arrays["images"].astype(np.float32) / np.float32(16)
        labels = arrays["labels"].astype(np.int64)
    if part == "all":
        return images, labels
    is_test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    chosen = is_test if part == "test" else ~is_test
    return images[chosen], labels[chosen]


def load_elnino():
    """The mean temperature of the sea off Peru and Ecuador in each month of 61 years [1]_: one series with a season.

    A year is much like another but for the months of El Niño, when the sea is up to 4.6 degrees warmer than the mean of
    that month.

    Returns
    -------
    temperature : ndarray of float32, shape (732,)
        Degrees Celsius, 18.95 to 29.24.
    months : ndarray of datetime64[M], shape (732,)
        January 1950 to December 2010, without a gap.

    References
    ----------
    .. [1] National Oceanic and Atmospheric Administration, ERSST.v3b, region Niño 1+2; in the public domain. README.md
       beside this file has more on it.

    Examples
    --------
    >>> temperature, months = load_elnino()
    >>> str(months[temperature.argmax()]), round(float(temperature.max()), 2)
    ('1998-03', 29.24)
    """
    with _open("elnino.csv") as file:
        years = np.loadtxt(file, delimiter=",", skiprows=1)  # (61, 1 + 12): the year, its months
    first = np.datetime64(f"{int(years[0, 0])}-01", "M")
    temperature = years[:, 1:].astype(np.float32).ravel()
    return temperature, first + np.arange(temperature.size)
