"""From the bytes of an image file, DICOM included, to pixels: the one place that decodes. It knows no dataset."""
