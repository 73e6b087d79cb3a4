//! Which texts are URLs that may leave for VMRay's cloud. Pure: no network, clock or environment.
