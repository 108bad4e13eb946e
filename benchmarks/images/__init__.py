"""The pixels of one file, DICOM included; the only room that opens image files. It knows no dataset."""
