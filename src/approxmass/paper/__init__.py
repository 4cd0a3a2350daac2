"""The paper (Chali et al., CVPRW 2023): what it published, and whether that can be."""
