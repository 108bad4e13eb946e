"""What a trained model looks at: maps over an image's patches, whether they mean anything, and pictures of them."""
