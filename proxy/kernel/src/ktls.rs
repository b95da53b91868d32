//! Kernel TLS, the sending half: the kernel makes records of what a socket is given, sendfile's bytes included.
//!
//! Only TLS 1.3: a TLS 1.2 key's nonces would go on from where the kernel counts, not from where the handshake did.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsTx, TcpUlp, TlsCryptoInfo};
use zeroize::{Zeroize as _, Zeroizing};

/// The key of the sending half, as the handshake left it. It is wiped when it is dropped.
pub struct TransmitKey {
    /// The cipher.
    pub cipher: Cipher,
    /// The cipher's key: 16 bytes for AES-128-GCM, else 32.
    pub key: Zeroizing<Vec<u8>>,
    /// The nonces' common part.
    pub iv: Zeroizing<[u8; 12]>,
    /// Records that were sent under this key.
    pub sequence: u64,
}

/// The ciphers of TLS 1.3 that the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the suites'")]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// Whether the kernel does TLS (`CONFIG_TLS`, on Debian the module `tls`). The error says why not.
pub fn probe() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (_far, _) = listener.accept()?;
    let (key, iv) = (vec![0; 16].into(), [0; 12].into());
    let key = TransmitKey { cipher: Cipher::Aes128Gcm, key, iv, sequence: 0 };
    take_over(near.as_fd(), &key)
}

/// Has the kernel protect everything that `socket` sends from now on. Records that were sealed before must be written.
pub fn take_over(socket: BorrowedFd<'_>, key: &TransmitKey) -> io::Result<()> {
    setsockopt(&socket, TcpUlp::default(), b"tls")?;
    change_key(socket, key)
}

/// Has the kernel go on with another key (since Linux 6.14).
pub fn change_key(socket: BorrowedFd<'_>, key: &TransmitKey) -> io::Result<()> {
    let form = key.kernel_form().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(setsockopt(&socket, TcpTlsTx, &form.0)?)
}

/// Sends `content` as a record of another type than application data (RFC 8446 section 5.1): all of it or, with
/// `WouldBlock`, nothing.
pub fn send_record(socket: BorrowedFd<'_>, kind: u8, content: &[u8]) -> io::Result<()> {
    let mut slice = libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    let mut control = Control { header: cmsghdr(), kind, _pad: [0; 7] };
    // SAFETY: all zeroes is a message without name, content or control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: message, slice, control data and content live until the call returns, and the kernel keeps none of them;
    // the content is only read.
    let sent = Errno::result(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })?;
    if usize::try_from(sent).is_ok_and(|sent| sent == content.len()) {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// One control message that carries one byte, padded as `CMSG_SPACE(1)` is.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    kind: u8,
    _pad: [u8; 7],
}

fn cmsghdr() -> libc::cmsghdr {
    // SAFETY: all zeroes is a header of nothing; the fields that count are set below.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = (size_of::<libc::cmsghdr>() + 1) as _;
    header.cmsg_level = libc::SOL_TLS;
    header.cmsg_type = libc::TLS_SET_RECORD_TYPE;
    header
}

impl TransmitKey {
    /// In the kernel the nonces' common part is the salt and the iv. None if the key's length is wrong.
    fn kernel_form(&self) -> Option<KernelForm> {
        let header = |cipher_type| libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type };
        let rec_seq = self.sequence.to_be_bytes();
        let (salt, iv) = self.iv.split_first_chunk::<4>()?;
        let (salt, iv) = (*salt, iv.try_into().ok()?);
        Some(KernelForm(match self.cipher {
            Cipher::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                info: header(libc::TLS_CIPHER_AES_GCM_128),
                iv,
                key: self.key.as_slice().try_into().ok()?,
                salt,
                rec_seq,
            }),
            Cipher::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                info: header(libc::TLS_CIPHER_AES_GCM_256),
                iv,
                key: self.key.as_slice().try_into().ok()?,
                salt,
                rec_seq,
            }),
            Cipher::Chacha20Poly1305 => TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info: header(libc::TLS_CIPHER_CHACHA20_POLY1305),
                iv: *self.iv,
                key: self.key.as_slice().try_into().ok()?,
                salt: [],
                rec_seq,
            }),
        }))
    }
}

/// A key in the form that the kernel takes. It is wiped when it is dropped.
struct KernelForm(TlsCryptoInfo);

impl KernelForm {
    fn wipe(&mut self) {
        match &mut self.0 {
            TlsCryptoInfo::Aes128Gcm(info) => {
                info.key.zeroize();
                info.salt.zeroize();
                info.iv.zeroize();
            }
            TlsCryptoInfo::Aes256Gcm(info) => {
                info.key.zeroize();
                info.salt.zeroize();
                info.iv.zeroize();
            }
            TlsCryptoInfo::Chacha20Poly1305(info) => {
                info.key.zeroize();
                info.iv.zeroize();
            }
        }
    }
}

impl Drop for KernelForm {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IV: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn key(cipher: Cipher, length: usize) -> TransmitKey {
        TransmitKey { cipher, key: vec![7; length].into(), iv: IV.into(), sequence: 0x0102 }
    }

    #[test]
    fn a_key_is_told_in_the_kernels_form_and_wiped() {
        let mut form = key(Cipher::Aes128Gcm, 16).kernel_form().expect("AES-128");
        let TlsCryptoInfo::Aes128Gcm(info) = form.0 else { panic!("AES-128") };
        assert_eq!((info.info.version, info.info.cipher_type), (0x0304, libc::TLS_CIPHER_AES_GCM_128));
        assert_eq!((info.salt, info.iv), ([1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]));
        assert_eq!((info.key, info.rec_seq), ([7; 16], [0, 0, 0, 0, 0, 0, 1, 2]));
        form.wipe();
        let TlsCryptoInfo::Aes128Gcm(info) = form.0 else { panic!("AES-128") };
        assert_eq!((info.salt, info.iv, info.key), ([0; 4], [0; 8], [0; 16]));

        let mut form = key(Cipher::Chacha20Poly1305, 32).kernel_form().expect("ChaCha20");
        assert!(matches!(form.0, TlsCryptoInfo::Chacha20Poly1305(info) if info.iv == IV && info.key == [7; 32]));
        form.wipe();
        assert!(matches!(form.0, TlsCryptoInfo::Chacha20Poly1305(info) if info.iv == [0; 12] && info.key == [0; 32]));

        let mut form = key(Cipher::Aes256Gcm, 32).kernel_form().expect("AES-256");
        assert!(matches!(form.0, TlsCryptoInfo::Aes256Gcm(info) if info.key == [7; 32]));
        form.wipe();
        assert!(matches!(form.0, TlsCryptoInfo::Aes256Gcm(info) if info.key == [0; 32] && info.iv == [0; 8]));
        assert!(key(Cipher::Aes256Gcm, 24).kernel_form().is_none());

        assert!(std::mem::needs_drop::<KernelForm>(), "the form wipes itself");
        fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}
        let key = key(Cipher::Aes256Gcm, 32);
        is_wiped(&key.key);
        is_wiped(&key.iv);
    }

    /// A kernel with TLS makes records. With one that has none, the socket goes on as it was.
    #[test]
    fn a_kernel_makes_records_or_says_that_it_does_not() {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        let key = key(Cipher::Aes128Gcm, 16);
        let taken_over = take_over(near.as_fd(), &key);
        assert_eq!(taken_over.is_ok(), probe().is_ok());
        near.write_all(b"plain").expect("written");
        let mut heard = [0; 5];
        far.read_exact(&mut heard).expect("read");
        match taken_over {
            Ok(()) => assert_eq!(heard, [23, 3, 3, 0, 22], "a record of five bytes, a type and a tag"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
                assert_eq!(&heard, b"plain");
            }
        }
    }
}
