//! Byte streams around others.

/// The methods of [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite) that a wrapper does not change: to be
/// written in its implementation, with the field that it wraps. A method with a default must be named as well, or its default counts.
///
/// ```
/// use tokio::io::{AsyncRead, AsyncWrite};
///
/// struct Wrapper<I> {
///     io: I,
/// }
///
/// impl<I: AsyncRead + Unpin> AsyncRead for Wrapper<I> {
///     underpass_core::pass_on!(io: poll_read);
/// }
///
/// impl<I: AsyncWrite + Unpin> AsyncWrite for Wrapper<I> {
///     underpass_core::pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
/// }
/// ```
#[macro_export]
macro_rules! pass_on {
    ($io:ident: $($method:ident),+) => {
        $($crate::pass_on!(@$method $io);)+
    };
    (@is_write_vectored $io:ident) => {
        fn is_write_vectored(&self) -> bool {
            self.$io.is_write_vectored()
        }
    };
    (@poll_read $io:ident) => {
        $crate::pass_on!(@poll_read $io(buffer: &mut ::tokio::io::ReadBuf<'_>) -> ());
    };
    (@poll_write $io:ident) => {
        $crate::pass_on!(@poll_write $io(bytes: &[u8]) -> usize);
    };
    (@poll_write_vectored $io:ident) => {
        $crate::pass_on!(@poll_write_vectored $io(slices: &[::std::io::IoSlice<'_>]) -> usize);
    };
    (@poll_flush $io:ident) => {
        $crate::pass_on!(@poll_flush $io() -> ());
    };
    (@poll_shutdown $io:ident) => {
        $crate::pass_on!(@poll_shutdown $io() -> ());
    };
    (@$method:ident $io:ident($($argument:ident: $type:ty)?) -> $given:ty) => {
        fn $method(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            $($argument: $type,)?
        ) -> ::std::task::Poll<::std::io::Result<$given>> {
            ::std::pin::Pin::new(&mut self.$io).$method(cx, $($argument)?)
        }
    };
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

    struct Wrapper {
        io: DuplexStream,
    }

    impl AsyncRead for Wrapper {
        pass_on!(io: poll_read);
    }

    impl AsyncWrite for Wrapper {
        pass_on!(io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
    }

    #[tokio::test]
    async fn what_is_named_is_the_wrapped_streams() {
        let (io, mut peer) = tokio::io::duplex(64);
        let mut wrapper = Wrapper { io };
        assert_eq!(wrapper.is_write_vectored(), peer.is_write_vectored());
        wrapper.write_all(b"ab").await.unwrap();
        let slices = [IoSlice::new(b"c"), IoSlice::new(b"d")];
        assert_eq!(wrapper.write_vectored(&slices).await.unwrap(), 2);
        wrapper.flush().await.unwrap();
        wrapper.shutdown().await.unwrap();
        let mut came = String::new();
        peer.read_to_string(&mut came).await.unwrap();
        assert_eq!(came, "abcd");
        peer.write_all(b"e").await.unwrap();
        assert_eq!(wrapper.read_u8().await.unwrap(), b'e');
    }
}
