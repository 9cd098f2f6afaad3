"""Generator models compared, and a verifier's resistance to prompt injections."""
