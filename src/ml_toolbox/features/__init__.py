"""What the product does, one package per subject. Handed its ports by ``app``; never imports a provider."""
